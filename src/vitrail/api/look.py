"""`vitrail.look`: where in a photo a model sees its answer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vitrail.api.images import Images, open_any
from vitrail.api.inspect import choose_evenly, prepare, read_images
from vitrail.api.models import Model, Size
from vitrail.errors import ConfigError, DoesNotApply, suggest
from vitrail.inspection.figures import Plate, overlay, sheet
from vitrail.inspection.maps import rollout_of
from vitrail.inspection.relevance import grad_cam, relevance
from vitrail.prediction.forward import answering, check_head, class_names, place
from vitrail.prediction.predict import Decision, probabilities_of
from vitrail.reports.page import FigureSection, write_page
from vitrail.storage import write_whole

Method = Literal["auto", "relevance", "grad-cam", "rollout"]
METHODS: dict[str, Callable[..., Float[Tensor, "B h w"]]] = {"relevance": relevance, "grad-cam": grad_cam}
ABOUT = {
    "relevance": "Bright is what the answer rests on (relevance, Chefer et al. 2021)",
    "grad-cam": "Bright is what the answer rests on (Grad-CAM, Selvaraju et al. 2017)",
    "rollout": "Bright is where attention ends, whatever the answer (rollout, Abnar & Zuidema 2020)",
}
PIXELS = 448
"""Pixels of the longer side of the picture, at least."""


@dataclass(frozen=True, eq=False)
class Look:
    """One image and the map of one class over it."""

    key: str
    label: str
    """The class that is explained: the model's answer, or the one that was asked for; or the name of the number."""
    probability: float | None
    """None of a model that answers with a number."""
    value: float | None
    """The number; None of a model that answers with classes."""
    method: str
    map: Float[Tensor, "h w"]
    """One number a patch."""
    picture: UInt8[np.ndarray, "H W C"]
    """The part of the image that the model reads."""

    @property
    def answer(self) -> str:
        """The class and how sure, or the number."""
        return f"{self.label} {self.value:.4g}" if self.probability is None else f"{self.label} {self.probability:.1%}"


@dataclass(frozen=True, eq=False)
class Looks:
    """Looks at several images; `write` makes one picture or one page of them."""

    looks: tuple[Look, ...]

    def plate(self) -> Plate:
        """The photos beside their maps."""
        cells = [
            cell
            for one in self.looks
            for cell in (
                (Path(one.key).name, one.picture),
                (one.answer, overlay(one.picture, one.map)),
            )
        ]
        across = 2 * min(3, math.ceil(len(self.looks) / 4))  # one photo in a row; two or three where there are many
        rows = [cells[k : k + across] for k in range(0, len(cells), across)]
        said = "; ".join(f"{one.key}: {one.answer}" for one in self.looks)
        return sheet("look", rows, f"Photos beside their heat maps. {said}.", ABOUT[self.looks[0].method])

    def write(self, path: str | Path) -> Path:
        """Writes a PNG file, or a page where the name ends with .html. Raises ConfigError, StorageError."""
        path, plate = Path(path), self.plate()
        if path.suffix == ".html":
            return write_page(path, "Where the answer is seen", [FigureSection("", [plate.drawing])])
        if path.suffix != ".png":
            raise ConfigError(f"out = {path}", allowed="a name that ends with .png or .html")
        write_whole(path, plate.png)
        return path


def look(
    model: Model, images: Images, *, of: str | None = None, method: Method = "auto", size: Size = None,
    device: str = "auto", out: str | Path | None = None,
) -> Looks:  # fmt: skip
    """A heat map over each image for the model's answer, or for the class `of`.

        vitrail.look("runs/photos-1", "photo.jpg", out="look.png")

    Raises DoesNotApply for a model without a head, ConfigError for an unknown class.

    Args:
        images: Image files and folders; 128 images at most are taken, evenly.
        of: The class that is explained, in place of the model's answer.
        method: auto: relevance for a ViT, else grad-cam; rollout needs no class.
        size: Height and width in pixels the images are brought to, in place of the model's own.
        out: A picture (.png) or a page (.html); the command writes look.png where none is named.
    """
    module, preprocess = prepare(model, size, device)
    check_head(module)
    source = open_any(images)[0]
    pixels = read_images(source, preprocess)
    with answering(module, place(module), torch.float32):
        logits = module(preprocess.normalise(pixels).to(place(module))).cpu()
    decision = Decision.of(module, 1)
    probabilities = probabilities_of(logits, decision)
    chosen = probabilities.argmax(1).tolist() if of is None else [find_class(module, of)] * len(pixels)
    called, maps = explain(module, pixels, chosen, method)
    zoom = max(1, -(-PIXELS // max(preprocess.size)))
    height, width = preprocess.size
    larger = read_images(source, replace(preprocess, size=(zoom * height, zoom * width)))
    names = class_names(module) or tuple(f"class {k}" for k in range(probabilities.shape[1]))
    looks = []
    for row, (index, k) in enumerate(zip(choose_evenly(len(source)), chosen, strict=True)):
        sure, value = (None, float(logits[row, 0])) if decision.numeric else (float(probabilities[row, k]), None)
        picture = larger[row].permute(1, 2, 0).numpy()
        looks.append(Look(source.keys[index], names[k], sure, value, called, maps[row], picture))
    found = Looks(tuple(looks))
    if out is not None:
        found.write(out)
    return found


def explain(model: Any, pixels: Tensor, classes: Sequence[int], method: Method) -> tuple[str, Float[Tensor, "B h w"]]:
    """The name of the method that applies, and its maps."""
    if method == "rollout":
        return method, rollout_of(model, pixels)
    if method != "auto":
        return method, METHODS[method](model, pixels, classes=classes)
    try:
        return "relevance", relevance(model, pixels, classes=classes)
    except DoesNotApply:
        return "grad-cam", grad_cam(model, pixels, classes=classes)


def find_class(model: Any, name: str) -> int:
    names = class_names(model)
    if name not in names:
        raise ConfigError(
            f"the model knows no class {name!r}", allowed=", ".join(names[:20]), next_step=suggest(name, names)
        )
    return names.index(name)
