"""`vitrail embed`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vitrail.cli.arguments import Switch, check_writable, parse, say
from vitrail.cli.options import Compute, HeldOut, Pool
from vitrail.errors import ConfigError, DataError

if TYPE_CHECKING:
    from vitrail.images.samples import Splits


@dataclass(frozen=True, kw_only=True)
class Embed(Compute, HeldOut):
    """Writes a model's features of images to a file or folder that every protocol, and `vitrail similar`, reads back.

    With classes and a split (train, test) where the data has them; a folder of plain images gives unlabelled features.
    A .safetensors file is made in one go, in memory. A .parquet file and a folder of Parquet files are made part by part,
    for any number of images: what is killed goes on where it was when the same command is typed again, torchrun shares
    the work, and an image that cannot be read gets a row that says why.

    examples:
      vitrail embed runs/photos-1 ./photos --out features.safetensors
      vitrail embed vit-s16.npz ./unsorted --unlabelled --layer 10 --out features.parquet
      vitrail embed vit-s16.npz ./photos --layer -4 -3 -2 -1 --out last4.safetensors
      torchrun --nproc-per-node=2 -m vitrail embed vit-s16.npz ./shards --out features/
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str]
    out: Path
    """A name that ends with .safetensors or .parquet, or a folder."""
    layer: tuple[int, ...] = ()
    """The block whose output is read, from 1, or from the last with -1; several lie side by side, as linear-4 reads
    them. Without it, what the model's head reads."""
    pool: Pool = "auto"
    size: int | None = None
    """Side of square images in pixels, in place of the model's own."""
    unlabelled: Switch = False
    """Take every picture under DATA, whatever folder it is in."""
    part: int = 1024
    """Images of a part of a .parquet file or folder: what a kill can cost each process."""


def main(words: Sequence[str]) -> int:
    asked = parse(Embed, words, command="embed")

    from vitrail.api.embed import open_features_model
    from vitrail.evaluation.embedding import Extraction, bulk, embed, every_part, parts_of
    from vitrail.evaluation.store import save
    from vitrail.prediction.parts import describe
    from vitrail.processes.world import World

    if asked.out.suffix not in (".safetensors", ".parquet", ""):
        raise ConfigError(f"--out {asked.out}", allowed="a name that ends with .safetensors or .parquet, or a folder")
    check_writable(asked.out)
    splits, notes = open_labelled_or_not(asked)
    for note in (splits.how, *notes):
        say(note)
    model = open_features_model(asked.model, splits, asked.size)
    how = Extraction(
        layers=asked.layer,
        pool=asked.pool,
        batch_size=asked.batch,
        device=asked.device,
        precision=asked.precision,
        workers=asked.workers,
    )
    if asked.out.suffix != ".safetensors":
        world = World.from_environment()
        job = bulk(model, every_part(splits), name=asked.model, how=how, part=asked.part)
        say(describe(job.write(asked.out, world), asked.out))
        return 0
    parts = parts_of(splits) if len(splits.train) else {"test": splits.test}
    kept = embed(model, parts, name=asked.model, how=how)
    save(asked.out, kept)
    say(f"{len(kept.keys):,} images × {kept.features.shape[1]} features: {asked.out}")
    return 0


def open_labelled_or_not(asked: Embed) -> "tuple[Splits, tuple[str, ...]]":
    from vitrail.api.embed import open_split
    from vitrail.images.sources import open_unlabelled

    if asked.unlabelled:
        return open_unlabelled(asked.data, follow_links=asked.follow_links), ()
    try:
        return open_split(
            asked.data, [asked.model], asked.holdout, download=asked.download, follow_links=asked.follow_links
        )
    except DataError as error:
        raise DataError(
            error.found, allowed=error.allowed, next_step="or take all pictures without classes: --unlabelled"
        ) from None
