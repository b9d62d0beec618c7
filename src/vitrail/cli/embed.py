"""Writes a model's features of images to a file or folder that every protocol, and `vitrail similar`, reads back.

With classes and a split (train, test) where the data has them; a folder of plain images gives unlabelled features.
A .safetensors file is made in one go, in memory. A .parquet file and a folder of Parquet files are made part by part,
for any number of images. After a kill the same command goes on where it was. torchrun shares the work. An image that
cannot be read gets a row that says why.

examples:
  vitrail embed runs/photos-1 ./photos --out features.safetensors
  vitrail embed vit-s16.npz ./unsorted --unlabelled --layer 10 --out features.parquet
  vitrail embed vit-s16.npz ./photos --layer -4 -3 -2 -1 --out last4.safetensors
  torchrun --nproc-per-node=2 -m vitrail embed vit-s16.npz ./shards --out features/
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Threads, options_of
from vitrail.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Out:
    """Where the features go."""

    out: Path
    """A name that ends with .safetensors or .parquet, or a folder."""
    part: int = 1024
    """Images of a part of a .parquet file or folder: what a kill can cost each process."""


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("embed", __doc__, Threads, Out, size=int | None), words, command="embed")

    from vitrail.api.embed import embed, embed_in_parts

    if asked.out.suffix not in (".safetensors", ".parquet", ""):
        raise ConfigError(f"--out {asked.out}", allowed="a name that ends with .safetensors or .parquet, or a folder")
    check_writable(asked.out)
    if asked.out.suffix == ".safetensors":
        kept = call(embed, asked, say=say)
        say(f"{len(kept.keys):,} images × {kept.features.shape[1]} features: {asked.out}")
    else:
        say(call(embed_in_parts, asked, say=say))
    return 0
