"""`vitrail trace`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tyro
from torch import nn

from vitrail.cli.arguments import Switch, parse, say
from vitrail.errors import DataError
from vitrail.images.decode import decode
from vitrail.images.preprocess import Preprocess
from vitrail.inspection.trace import Step, trace
from vitrail.inspection.trace_page import page_of, walk
from vitrail.models import zoo
from vitrail.reports.page import write_page
from vitrail.reports.tables import Column, Output, Table, show
from vitrail.weights.bundle import Record, load


@dataclass(frozen=True)
class Trace:
    """Follows one image through the model: every tensor on the way, its shape, and its equation in the ViT paper.

    Without --weights the model is newly initialised, which changes no shape. Letters: B images, C channels, H W pixels,
    P side of a patch, N tokens, D width, A heads, d width of a head, K classes.

    examples:
      vitrail trace photo.jpg
      vitrail trace photo.jpg --model vit-l/32 --size 224 160
      vitrail trace photo.jpg --weights runs/photos-1 --every-block
      vitrail trace photo.jpg --html trace.html
    """

    image: tyro.conf.Positional[Path]
    """An image file."""
    model: str = "vit-b/16"
    """A model of the zoo."""
    weights: str | None = None
    """A run folder, a bundle or a weights file, in place of --model."""
    size: tuple[int, int] | None = None
    """Height and width in pixels the image is brought to, in place of the model's own."""
    every_block: Switch = False
    """All blocks, and not the first and the last alone."""
    format: Output = "table"
    """--json and --csv say the same."""
    html: Path | None = None
    """Also write a page to step through: each tensor with a picture and the line of code that makes it."""


def main(words: Sequence[str]) -> int:
    asked = parse(Trace, words, command="trace")
    model, preprocess = prepared(asked)
    try:
        content = asked.image.read_bytes()
    except OSError as error:
        raise DataError(f"{asked.image} cannot be read ({error.strerror})", next_step="check the path") from None
    image = decode(content, key=str(asked.image), background=preprocess.background)
    pixels = preprocess.resize_image(image)
    if asked.html is None:
        steps = trace(model, preprocess.normalise(pixels[None]))
    else:
        stops = walk(model, preprocess.normalise(pixels[None]), pixels)
        steps = [stop.step for stop in stops]
        say(
            f"page: {write_page(asked.html, f'{asked.image.name} through {asked.weights or asked.model}', [page_of(stops)])}"
        )
    blocks: Any = getattr(model, "blocks", ())
    depth = len(blocks)
    shown = steps if asked.every_block or asked.format != "table" or depth < 4 else list(ends(steps, depth))
    height, width = image.shape[:2]
    say(f"{asked.image}, {height} × {width} pixels, brought to {preprocess.size[0]} × {preprocess.size[1]}")
    columns = Column("tensor"), Column("shape"), Column("axes"), Column("eq."), Column("how")
    rows = tuple((step.name, "×".join(map(str, step.shape)), step.axes, step.equation, step.note) for step in shown)
    show(Table(columns, rows), asked.format)
    return 0


def prepared(asked: Trace) -> tuple[nn.Module, Preprocess]:
    """The model and what brings an image to it."""
    size = {} if asked.size is None else {"size": asked.size}
    if asked.weights:
        model = load(asked.weights)
        assert isinstance(model.record, Record)
        return model, replace(model.record.preprocess, **size)
    config = zoo.config(asked.model)
    return zoo.build(config), Preprocess(size=asked.size or config.image)


def ends(steps: Sequence[Step], depth: int) -> Iterator[Step]:
    """The first block and the last, and one line for those between."""
    told = False
    for step in steps:
        if not 1 < step.block < depth:
            yield step
        elif not told:
            told = True
            yield Step("…", (), "", "2, 3", f"blocks 2 to {depth - 1} alike")
