"""A trace to step through: for each tensor its name, shape, equation, the function that makes it, and a picture."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import getsourcefile, getsourcelines, unwrap
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

import vitrail
from vitrail.inspection.attention_hooks import Tap, watch
from vitrail.inspection.figures import HEAT, enlarge
from vitrail.inspection.trace import Step, trace
from vitrail.models.backbone import Backbone
from vitrail.models.layers import Attention, Block, Mlp, PatchEmbed, attend
from vitrail.models.vit import ViT
from vitrail.reports.page import Html, data_address, template

CODE: tuple[tuple[str, Callable[..., Any]], ...] = (
    (r"1 (patches|x_p|x_p E)", PatchEmbed.forward),
    (r"1 .*", ViT.place),
    (r"5 .*", Attention.project),
    (r"6 .*", attend),
    (r"8 .*", Attention.forward),
    (r"3 GELU_.*", Mlp.forward),
    (r"[23] .*", Block.forward),
    (r"4 LN.*", ViT.encode),
    (r"4 .*", ViT.pool),
)
"""Number of the equation and name of a step -> the function that makes it; the first that fits."""

SIDE = 288
"""Pixels of the longer side of a picture."""


@dataclass(frozen=True, eq=False)
class Stop:
    """A step as the page has it."""

    step: Step
    made_in: str
    """`models/layers.py:80, Mlp.forward`; empty for a step without an equation."""
    picture: UInt8[np.ndarray, "H W C"] | None

    @property
    def shape(self) -> str:
        return " × ".join(map(str, self.step.shape))

    @property
    def source(self) -> str:
        assert self.picture is not None
        return data_address(Image.fromarray(self.picture), "png")


def walk(model: Backbone, image: Float[Tensor, "1 C H W"], shown: UInt8[Tensor, "_ _ _"]) -> list[Stop]:
    """Every step of one image's trace, with its function and its picture; `shown` is the image in 8 bits."""
    steps = trace(model, image)
    maps: dict[int, Tensor] = {}

    def visit(tap: Tap) -> None:
        maps[tap.layer] = tap.weights()[0].mean(0).cpu()

    if any(step.value is None and step.axes == "B A N N" for step in steps):
        watch(model, image, visit)
    return [_stop(step, maps, shown) for step in steps]


def page_of(stops: Sequence[Stop]) -> Html:
    """The stops as one section: buttons and arrow keys step through them; without scripts all are there, one under another."""
    return Html("Step by step", template("vitrail.inspection", "walk").render(stops=stops), note=NOTE)


NOTE = (
    "Each picture is the tensor of the one image: tokens are rows and features columns, bright is large in magnitude; of an image "
    "its pixels, of attention its mean over the heads. Large tensors are averaged to fit."
)


def place_of(step: Step) -> str:
    """`file:line, function` of a step with an equation; else empty."""
    for pattern, function in CODE:
        if re.fullmatch(pattern, f"{step.equation} {step.name}"):
            function = unwrap(function)  # a type checker may stand in front of it
            path = Path(getsourcefile(function) or "").relative_to(Path(vitrail.__file__).parent)
            return f"{path.as_posix()}:{getsourcelines(function)[1]}, {function.__qualname__}"
    return ""


def _stop(step: Step, maps: dict[int, Tensor], shown: Tensor) -> Stop:
    if step.name == "x":
        picture = enlarge(shown.permute(1, 2, 0).numpy(), SIDE)
    else:
        value = maps.get(step.block) if step.value is None else step.value[0]
        picture = None if value is None else thumbnail(value)
    return Stop(step, place_of(step), picture)


def thumbnail(value: Float[Tensor, "*N"]) -> UInt8[np.ndarray, "H W C"]:
    """A tensor as a picture: its last axis across, all before it down, magnitudes in colour; vectors as a block of rows."""
    rows = value.float().abs().cpu()
    if rows.ndim == 3 and rows.shape[0] < 64:  # heads side by side
        rows = rows.transpose(0, 1).flatten(1)
    rows = rows.flatten(0, -2) if rows.ndim > 1 else _block_of(rows)
    height, width = (min(size, SIDE) for size in rows.shape)
    small = torch.nn.functional.adaptive_avg_pool2d(rows[None], (height, width))[0]
    top = torch.quantile(small.flatten()[:100_000], 0.99).clamp_min(1e-12)
    return enlarge(HEAT((small / top).clamp(0, 1).numpy())[..., :3], SIDE)


def _block_of(vector: Float[Tensor, "D"]) -> Float[Tensor, "h w"]:
    """A vector broken into rows about three times as wide as high, zeros at the end."""
    width = max(1, math.ceil((3 * len(vector)) ** 0.5))
    return torch.nn.functional.pad(vector, (0, -len(vector) % width)).unflatten(0, (-1, width))
