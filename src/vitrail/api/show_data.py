"""`vitrail.show_data`: a sheet of what a training will see, made by the loader that training uses."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.api.request import Chosen, choose_run
from vitrail.batches.draws import generator
from vitrail.batches.loader import Batch, eval_batches, train_batches
from vitrail.batches.mixing import mix
from vitrail.batches.order import Order
from vitrail.errors import ConfigError, DataError
from vitrail.images.samples import Source, Splits
from vitrail.reports.page import Gallery, Picture, Text, write_page
from vitrail.reports.sheets import picture_rows
from vitrail.storage import write_whole
from vitrail.training.run import Run

Row = tuple[str, list[np.ndarray]]


def show_data(
    data: str | Path | Splits, *, out: str | Path = "runs/seen.png", rows: int = 6, passes: int = 6,
    recipe: str | None = None, model: str | None = None, weights: str | Path | None = None, download: bool = False,
    **changes: Any,
) -> Path:  # fmt: skip
    """Draws `rows` images, spread over the set: as evaluation has them, as each of `passes` epochs has them, then mixed.

        vitrail.show_data("./photos", recipe="deit", out="seen.html")

    The recipe and its `changes` are given as to `vitrail.train`. `out` is a .png or a page. Raises ConfigError, DataError.
    """
    chosen = choose_run(data, recipe=recipe, model=model, weights=weights, download=download, changes=changes)
    return draw_sheet(chosen, Path(out), rows, passes)


def draw_sheet(chosen: Chosen, out: Path, rows: int, passes: int) -> Path:
    """The sheet of a run that is chosen already."""
    if rows < 1 or passes < 1:
        raise ConfigError(f"rows = {rows}, passes = {passes}", allowed="1 or more")
    if out.suffix.lower() not in (".png", ".html"):
        raise ConfigError(f"out = {out}", allowed="a name that ends in .png or .html")
    run, source = chosen.run, chosen.splits.train
    places = np.unique(np.linspace(0, len(source) - 1, min(rows, len(source))).astype(int)).tolist()
    images = [seen(run, source, index, passes) for index in places]
    headings = ["evaluation", *(f"epoch {epoch}" for epoch in range(1, passes + 1))]
    title = f"{run.data} as the recipe {run.recipe} learns from it"
    write(out, images, headings, mixture(run, source, passes + 1), title)
    return out


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
        batch = read_batch(run, source, place, 1)
        if batch.dropped:
            raise DataError(str(batch.dropped[0]))
        yield first(batch)


def read_batch(run: Run, source: Source, start: int, size: int) -> Batch:
    """A batch out of the stream that training reads."""
    how: dict[str, Any] = {"preprocess": run.preprocess, "augment": run.augment, "seed": run.seed}
    return next(train_batches(source, **how, batch_size=size, start=start, stop=start + size))


def first(batch: Batch) -> Tensor:
    """The only image of a batch, cut out of its frame."""
    return batch.apart()[0][1].images[0]


def mixture(run: Run, source: Source, most: int) -> Row | None:
    """The first step's images as mixup and CutMix leave them, if they are drawn; None where nothing is mixed."""
    if run.mixing.mixup == run.mixing.cutmix == 0:
        return None
    size = min(run.hardware.micro_batch or run.batch_size, len(source))
    batch = read_batch(run, source, 0, size).split(size)[0]
    ready = replace(batch, images=run.preprocess.normalise(batch.images))
    mixed = mix(ready, replace(run.mixing, probability=1.0), generator(run.seed, 0, 0), len(source.classes))
    return f"mixed ({run.mixing.probability:.0%})", [
        shown(image) for image in run.preprocess.denormalise(mixed.images[:most])
    ]


def shown(image: Tensor) -> np.ndarray:
    """C H W as H W C of one channel or three."""
    channels = 3 if len(image) >= 3 else 1
    return np.ascontiguousarray(image[:channels].to(torch.uint8).permute(1, 2, 0).numpy())


def write(out: Path, rows: list[Row], headings: list[str], mixed: Row | None, title: str) -> None:
    if out.suffix.lower() == ".png":
        write_whole(out, picture_rows([*rows, *([mixed] if mixed else [])], headings, title=title))
        return
    galleries = [
        Gallery(name, [Picture(image, heading) for image, heading in zip(images, headings, strict=True)])
        for name, images in rows
    ]
    if mixed:
        galleries.append(Gallery(mixed[0], [Picture(image, "") for image in mixed[1]]))
    write_page(out, title, [Text("Images", "Each as evaluation has it, then as each epoch has it."), *galleries])
