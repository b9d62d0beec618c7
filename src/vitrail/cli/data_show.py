"""`vitrail data show`: a sheet of what a training will see, made by the loader that training uses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitrail.batches.draws import generator
from vitrail.batches.loader import Batch, eval_batches, train_batches
from vitrail.batches.mixing import mix
from vitrail.batches.order import Order
from vitrail.cli.arguments import say
from vitrail.cli.run_options import Asked, understand
from vitrail.errors import ConfigError, DataError
from vitrail.images.samples import Source
from vitrail.reports.page import Gallery, Picture, Text, write_page
from vitrail.reports.sheets import picture_rows
from vitrail.storage import write_whole
from vitrail.training.run import Run

Row = tuple[str, list[np.ndarray]]


@dataclass(frozen=True)
class Show(Asked):
    """Draws what a training will see: some images as evaluation has them, then as each epoch has them, then mixed.

    The pictures come out of the training's own loader, with its seed, order and augmentation; every option of `vitrail
    train` may be added.

    examples:
      vitrail data show ./photos
      vitrail data show ./photos --recipe deit --out deit.html
      vitrail data show digits --augment.rotate 45 --rows 4 --passes 8
    """

    out: Path = Path("runs/seen.png")
    """The sheet: .png, or .html."""
    rows: int = 6
    """How many images, spread evenly over the set."""
    passes: int = 6
    """In how many epochs each is shown."""


def run_show(words: Sequence[str]) -> int:
    asked, chosen = understand(Show, words, command="data show")
    run = chosen.run
    if asked.rows < 1 or asked.passes < 1:
        raise ConfigError(f"--rows {asked.rows}, --passes {asked.passes}", allowed="1 or more")
    if asked.out.suffix.lower() not in (".png", ".html"):
        raise ConfigError(f"--out {asked.out}", allowed="a name that ends in .png or .html")
    source = chosen.splits.train
    say(chosen.why)
    chosen = np.unique(np.linspace(0, len(source) - 1, min(asked.rows, len(source))).astype(int)).tolist()
    rows = [seen(run, source, index, asked.passes) for index in chosen]
    headings = ["evaluation", *(f"epoch {epoch}" for epoch in range(1, asked.passes + 1))]
    mixed = mixture(run, source, asked.passes + 1)
    write(asked, rows, headings, mixed, f"{run.data} as the recipe {run.recipe} learns from it")
    say(f"{len(rows)} images in {asked.passes} epochs{', and the first step mixed' if mixed else ''}: {asked.out}")
    return 0


def seen(run: Run, source: Source, index: int, passes: int) -> Row:
    """One image: as evaluation has it, then in each epoch."""
    one = source.subset([index])
    plain = next(iter(eval_batches(one, preprocess=run.preprocess, batch_size=1)))
    return source.keys[index], [
        shown(first(plain)),
        *(shown(image) for image in over_epochs(run, source, index, passes)),
    ]


def over_epochs(run: Run, source: Source, index: int, passes: int) -> Iterator[Tensor]:
    """The image out of the stream that training reads, wherever it stands in each epoch."""
    order = Order(len(source), run.seed)
    for epoch in range(passes):
        samples = order.at(np.arange(epoch * len(source), (epoch + 1) * len(source)))[1]
        place = (epoch * len(source) + int(np.flatnonzero(samples == index)[0])) * run.augment.repeats
        batch = next(
            train_batches(
                source, preprocess=run.preprocess, augment=run.augment, seed=run.seed, batch_size=1, start=place,
                stop=place + 1,
            )
        )  # fmt: skip
        if batch.dropped:
            raise DataError(str(batch.dropped[0]))
        yield first(batch)


def first(batch: Batch) -> Tensor:
    """The only image of a batch, cut out of its frame."""
    return batch.apart()[0][1].images[0]


def mixture(run: Run, source: Source, most: int) -> Row | None:
    """The first step's images as mixup and CutMix leave them; None where nothing is mixed."""
    if run.mixing.mixup == run.mixing.cutmix == 0:
        return None
    size = min(run.hardware.micro_batch or run.batch_size, len(source))
    batch = next(
        train_batches(
            source, preprocess=run.preprocess, augment=run.augment, seed=run.seed, batch_size=size, start=0, stop=size
        )
    )
    batch = batch.split(size)[0]
    ready = replace(batch, images=run.preprocess.normalise(batch.images))
    mixed = mix(ready, run.mixing, generator(run.seed, 0, 0), len(source.classes))
    return "first step, mixed", [shown(image) for image in run.preprocess.denormalise(mixed.images[:most])]


def shown(image: Tensor) -> np.ndarray:
    """C H W as H W C of one channel or three."""
    channels = 3 if len(image) >= 3 else 1
    return np.ascontiguousarray(image[:channels].to(torch.uint8).permute(1, 2, 0).numpy())


def write(asked: Show, rows: list[Row], headings: list[str], mixed: Row | None, title: str) -> None:
    if asked.out.suffix.lower() == ".html":
        galleries = [
            Gallery(name, [Picture(image, heading) for image, heading in zip(images, headings, strict=True)])
            for name, images in rows
        ]
        if mixed:
            galleries.append(Gallery(mixed[0], [Picture(image, "") for image in mixed[1]]))
        write_page(
            asked.out, title, [Text("Images", "Each as evaluation has it, then as each epoch has it."), *galleries]
        )
        return
    content = picture_rows([*rows, *([mixed] if mixed else [])], headings, title=title)
    write_whole(asked.out, content)
