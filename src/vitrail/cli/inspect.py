"""`vitrail inspect`."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from jaxtyping import UInt8
from torch import Tensor, nn

from vitrail.cli.arguments import parse, say
from vitrail.errors import DataError
from vitrail.images.findings import counted
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import NAMED, Source, open_data, open_images
from vitrail.inspection.report import inspect
from vitrail.models import zoo
from vitrail.prediction.forward import place
from vitrail.weights.bundle import Record, load

MOST = 128
"""Images at most, as many as the paper's attention distances are of."""


@dataclass(frozen=True)
class Inspect:
    """Looks inside a model: attention, rollout, attention distance, position embeddings, filters, patch features.

    Writes a folder with report.html (one file, no network), every figure as SVG and PNG, every number as CSV and JSON.
    What does not apply to the model is said. Without images, only its weights are looked at.

    examples:
      vitrail inspect runs/photos-1 photo.jpg another.jpg
      vitrail inspect vit-b16.npz photos/ --against runs/photos-1 --out compared
      vitrail inspect runs/digits-1 digits --layers 1 -1
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file; or a model of the zoo by name, newly initialised."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files and folders, or one named set; 128 images at most are taken, evenly."""
    against: str | None = None
    """A second model, side by side."""
    out: Path = Path("inspection")
    """Folder for the report."""
    layers: tuple[int, ...] = ()
    """Only these layers' attention, counted from 1; -1 is the last."""
    heads: tuple[int, ...] = ()
    """Only these heads, counted from 1."""
    size: tuple[int, int] | None = None
    """Height and width in pixels the images are brought to, in place of the model's own."""
    device: str = "auto"


def main(words: Sequence[str]) -> int:
    asked = parse(Inspect, words, command="inspect")
    source = opened(asked.images)
    model, preprocess = prepared(asked.model, asked)
    other, images, others = None, None, None
    if asked.against is not None:
        other, second = prepared(asked.against, asked)
        others = None if source is None else read(source, second)
    if source is not None:
        images = read(source, preprocess)
        say(
            f"{len(images):,} of {counted(len(source), 'image')}"
            if len(images) < len(source)
            else counted(len(images), "image")
        )
    found = inspect(
        model,
        images,
        name=short(asked.model),
        keys=[] if source is None else [source.keys[index] for index in chosen(len(source))],
        against=other,
        against_images=others,
        against_name=short(asked.against or ""),
        layers=asked.layers or None,
        heads=asked.heads or None,
    )
    page = found.write(asked.out)
    for what, why in found.missing:
        say(f"not in the report: {what}: {why}")
    print(page)
    return 0


def opened(words: Sequence[str]) -> Source | None:
    """The images that are named: a set's held-out part, or files and folders."""
    if not words:
        return None
    if len(words) == 1 and words[0] in NAMED and not Path(words[0]).exists():
        return open_data(words[0]).test
    return open_images(words)


def prepared(name: str, asked: Inspect) -> tuple[nn.Module, Preprocess]:
    """The model, on its device, and what brings an image to it; the two agree on the size."""
    if Path(name).exists():
        model = load(name)
        preprocess = model.record.preprocess  # pyrefly: ignore[missing-attribute]
    elif name in zoo.names() or name.startswith("vit-"):
        config = zoo.config(name)
        say(f"{name} is newly initialised: its figures show chance")
        model, preprocess = zoo.build(config).eval(), Preprocess(size=config.image)
        model.record = Record(config=config, preprocess=preprocess, source="newly initialised")  # pyrefly: ignore[bad-argument-type]
    else:
        raise DataError(f"there is no file or folder {name!r}, and no model of this name", next_step="check the path")
    place(model, asked.device)
    if asked.size is not None:
        preprocess = replace(preprocess, size=asked.size)
    return model, preprocess


def chosen(count: int) -> list[int]:
    """At most MOST of them, evenly."""
    return np.linspace(0, count - 1, min(MOST, count)).round().astype(int).tolist()


def read(source: Source, preprocess: Preprocess) -> UInt8[Tensor, "I C H W"]:
    """The chosen images as the model gets them, 8-bit. One that cannot be read is an error that names it."""
    if preprocess.resize == "native":  # the pages lay images over one grid
        preprocess = replace(preprocess, resize="squash")
    return torch.stack([preprocess.read(source[index]) for index in chosen(len(source))])


def short(name: str) -> str:
    """A name for headings: the last parts of a path."""
    path = Path(name)
    return "/".join(path.parts[-2:]) if path.exists() and len(path.parts) > 1 else name
