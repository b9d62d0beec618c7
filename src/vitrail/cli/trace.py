"""`vitrail trace`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vitrail.cli.arguments import Switch, check_writable, parse, say
from vitrail.cli.options import Show
from vitrail.errors import ConfigError
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.inspection.trace import Step


@dataclass(frozen=True, kw_only=True)
class Trace(Show):
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
    model: str | None = None
    """A model of the zoo; vit-b/16 without --weights."""
    weights: str | None = None
    """A run folder, a bundle or a weights file, in place of --model."""
    size: tuple[int, int] | None = None
    """Height and width in pixels the image is brought to, in place of the model's own."""
    every_block: Switch = False
    """All blocks, and not the first and the last alone."""
    html: Path | None = None
    """Also write a page to step through: each tensor with a picture and the line of code that makes it."""


def main(words: Sequence[str]) -> int:
    asked = parse(Trace, words, command="trace")

    from vitrail.api.images import open_any
    from vitrail.api.inspect import prepare
    from vitrail.inspection.trace import trace
    from vitrail.inspection.trace_page import page_of, walk
    from vitrail.reports.page import write_page

    if asked.weights and asked.model:
        raise ConfigError(f"--model {asked.model} and --weights {asked.weights} together", allowed="one of them")
    if asked.html and asked.html.is_dir():
        raise ConfigError(f"--html {asked.html} is a folder", allowed="the name of a file")
    check_writable(asked.html)
    name = asked.weights or asked.model or "vit-b/16"
    model, preprocess = prepare(name, asked.size)
    source = open_any(asked.image)[0]
    image = source.pixels(0, preprocess.background)
    pixels = preprocess.resize_image(image)
    stops = walk(model, preprocess.normalise(pixels[None]), pixels) if asked.html else []
    steps = [stop.step for stop in stops] or trace(model, preprocess.normalise(pixels[None]))
    depth = max(step.block for step in steps)
    shown = steps if asked.every_block or asked.format != "table" or depth < 4 else list(ends(steps, depth))
    height, width = image.shape[:2]
    say(f"{asked.image}, {height} × {width} pixels, brought to {preprocess.size[0]} × {preprocess.size[1]}")
    columns = Column("tensor"), Column("shape"), Column("axes"), Column("eq."), Column("how")
    rows = tuple((step.name, "×".join(map(str, step.shape)), step.axes, step.equation, step.note) for step in shown)
    show(Table(columns, rows), asked.format)
    if asked.html:
        say(f"page: {write_page(asked.html, f'{asked.image.name} through {name}', [page_of(stops)])}")
    return 0


def ends(steps: "Sequence[Step]", depth: int) -> "Iterator[Step]":
    """The first block and the last, and one line for those between."""
    from vitrail.inspection.trace import Step

    told = False
    for step in steps:
        if not 1 < step.block < depth:
            yield step
        elif not told:
            told = True
            yield Step("…", (), "", "2, 3", f"blocks 2 to {depth - 1} alike")
