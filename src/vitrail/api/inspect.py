"""`vitrail.inspect` and `vitrail.trace`: a model seen from inside."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from vitrail.api.images import Images, open_any
from vitrail.api.models import Model, Size, open_or_build
from vitrail.errors import ConfigError, DataError
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import NAMED, open_data
from vitrail.inspection import report
from vitrail.inspection import trace as tracing
from vitrail.inspection.report import Inspection
from vitrail.inspection.trace import Step
from vitrail.models.backbone import Backbone
from vitrail.prediction.forward import place

MOST = 128
"""Images at most, as many as the paper's attention distances are of."""


def inspect(
    model: Model, images: Images = (), *, against: Model | None = None, out: str | Path | None = None,
    layers: Sequence[int] = (), heads: Sequence[int] = (), size: Size = None, device: str = "auto", quiet: bool = False,
) -> Inspection:  # fmt: skip
    """Attention, rollout, attention distance, position embeddings, filters and patch features of a model.

        vitrail.inspect("runs/photos-1", ["a.jpg", "b.jpg"], out="inside")

    Args:
        model: A run folder, a bundle or a weights file; or a model of the zoo by name, newly initialised.
        images: Image files and folders, or one named set; 128 images at most are taken, evenly. Without images only the
            weights are looked at.
        against: A second model, side by side.
        out: Folder for the report, with every figure and every number; an earlier report there is replaced. The command
            takes runs/inspection-1, or the next free number, where none is named.
        layers: Only these layers' attention, counted from 1; -1 is the last.
        heads: Only these heads, counted from 1.
        size: Height and width in pixels the images are brought to, in place of the model's own.
    """
    if out is not None and (Path(out) / "run.json").exists():
        raise ConfigError(f"{out} is a run folder, with a report of its own", next_step="choose another `out`")
    source = open_shown(images)
    first, second = prepare(model, size, device), None if against is None else prepare(against, size, device)
    found = report.inspect(
        first[0],
        None if source is None else read_images(source, first[1]),
        name=short_name(model),
        keys=[] if source is None else [source.keys[index] for index in choose_evenly(len(source))],
        against=second and second[0],
        against_images=None if source is None or second is None else read_images(source, second[1]),
        against_name="" if against is None else short_name(against),
        layers=layers or None,
        heads=heads or None,
        truths=[] if source is None else known_classes(source),
        quiet=quiet,
    )
    if out is not None:
        found.write(out)
    return found


def trace(model: Model, image: Any, *, size: Size = None) -> list[Step]:
    """Every tensor on one image's way through the model: name, shape, equation of the ViT paper, and the tensor.

        for step in vitrail.trace("vit-b/16", "photo.jpg"):
            print(step.name, step.shape, step.equation)

    A model may be a name of the zoo, newly initialised. `image` is a path, a uint8 array, a PIL image, or a float tensor
    B × C × H × W that is normalised already.
    """
    if isinstance(image, Tensor) and image.is_floating_point():
        return tracing.trace(open_or_build(model), image)
    module, preprocess = prepare(model, size)
    pixels = read_images(open_any(image)[0], preprocess)[:1]
    return tracing.trace(module, preprocess.normalise(pixels))


def prepare(model: Model, size: Size = None, device: str | None = None) -> tuple[Backbone, Preprocess]:
    """The model on its device, and what brings an image to it."""
    module = open_or_build(model)
    place(module, device)
    preprocess: Preprocess = module.record.preprocess
    if size is not None:
        preprocess = replace(preprocess, size=(size, size) if isinstance(size, int) else size)
    return module, preprocess


def open_shown(images: Images) -> Source | None:
    """The images that are named: a set's held-out part, or files, folders and arrays."""
    words = [images] if isinstance(images, str | Path) else images
    if words is None or (isinstance(words, Sequence) and not words):
        return None
    if isinstance(words, Splits):
        return words.test
    if isinstance(words, Sequence) and len(words) == 1 and str(words[0]) in NAMED and not Path(words[0]).exists():
        return open_data(words[0]).test
    return open_any(words)[0]


def known_classes(source: Source) -> list[str]:
    """The class of each chosen image; nothing where the images have none, or several."""
    if not source.classes or source.multi_label:
        return []
    labels = [int(source.labels[index]) for index in choose_evenly(len(source))]
    return [source.classes[label] if label >= 0 else "" for label in labels]


def choose_evenly(count: int) -> list[int]:
    """At most MOST of them, evenly."""
    return np.linspace(0, count - 1, min(MOST, count)).round().astype(int).tolist()


def read_images(source: Source, preprocess: Preprocess) -> UInt8[Tensor, "I C H W"]:
    """The chosen images as the model gets them, 8-bit. One that cannot be read is an error that names it."""
    if not len(source):
        raise DataError("no images were named", next_step="name an image file, or give an array")
    if preprocess.resize == "native":  # the pages lay images over one grid
        preprocess = replace(preprocess, resize="squash")
    return torch.stack([preprocess.read(source[index]) for index in choose_evenly(len(source))])


def short_name(model: Model) -> str:
    """A name for headings: the last parts of a path."""
    if isinstance(model, nn.Module):
        return type(model).__name__
    path = Path(model)
    return "/".join(path.parts[-2:]) if path.exists() and len(path.parts) > 1 else str(model)
