"""A trace to step through: for each tensor its name, shape, equation, the line of code that makes it, and a picture of it."""

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from inspect import getsourcefile, getsourcelines, unwrap
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

import vitrail
from vitrail.inspection.attention_hooks import Tap, watch
from vitrail.inspection.figures import HEAT, Rgb, as_rgb
from vitrail.inspection.trace import Step, trace
from vitrail.models.backbone import Backbone
from vitrail.models.layers import Attention, Block, Mlp, PatchEmbed, attend
from vitrail.models.vit import ViT
from vitrail.reports.page import Html

CODE: tuple[tuple[str, Callable[..., Any], str], ...] = (
    (r"patches|x_p", PatchEmbed.forward, "x_p = rearrange("),
    (r"x_p E", PatchEmbed.forward, "F.linear("),
    (r"\[x_class; x_p E\]", ViT.place, "z_0 = torch.cat("),
    (r"z_0", ViT.place, "z_0 = z_0 + self.positions("),
    (r"LN\(z_\d+\)", Block.forward, "self.norm1("),
    (r"q_\d+|k_\d+|v_\d+", Attention.project, "self.q_norm("),
    (r"A_\d+", attend, "scaled_dot_product_attention("),
    (r"MSA_\d+", Attention.forward, "self.proj("),
    (r"z'_\d+", Block.forward, "self.norm1("),
    (r"LN\(z'_\d+\)", Block.forward, "self.norm2("),
    (r"GELU_\d+", Mlp.forward, "x = self.act(x)"),
    (r"z_\d+", Block.forward, "self.norm2("),
    (r"logits", ViT.forward, "self.head("),
)
"""Where each step of a ViT is made: its name, a function, what its line has in it. Looked up, so numbers stay true."""

SIDE = 288
"""Pixels of the longer side of a picture."""


@dataclass(frozen=True, eq=False)
class Stop:
    """A step as the page has it."""

    step: Step
    file: str
    """`models/layers.py:80`; empty where the tensor is made in no one line."""
    code: str
    picture: UInt8[np.ndarray, "H W C"] | None

    @property
    def shape(self) -> str:
        return " × ".join(map(str, self.step.shape))

    @property
    def source(self) -> str:
        file = io.BytesIO()
        assert self.picture is not None
        Image.fromarray(self.picture).save(file, "png", optimize=True)
        return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def walk(model: Any, image: Float[Tensor, "1 C H W"], shown: UInt8[Tensor, "_ _ _"]) -> list[Stop]:
    """Every step of one image's trace, with its line of code and its picture; `shown` is the image in 8 bits."""
    steps = trace(model, image)
    maps: dict[int, Tensor] = {}

    def visit(tap: Tap) -> None:
        maps[tap.layer] = tap.weights()[0].mean(0).cpu()

    if isinstance(model, ViT):
        watch(model, image, visit)
    return [_stop(model, step, maps, shown) for step in steps]


def page_of(stops: Sequence[Stop]) -> Html:
    """The stops as one section: buttons and arrow keys step through them; without scripts all are there, one under another."""
    return Html("Step by step", _template().render(stops=stops), note=NOTE)


NOTE = (
    "Each picture is the tensor of the one image: tokens are rows and features columns, bright is large in magnitude; of an image "
    "its pixels, of attention its mean over the heads. Large tensors are averaged to fit."
)


def line_of(step: Step) -> tuple[str, str]:
    """(`file:line`, the line itself) of a ViT's step; empty for one no line alone makes."""
    for pattern, function, part in CODE:
        if re.fullmatch(pattern, step.name):
            function = unwrap(function)  # a type checker may stand in front of it
            lines, first = getsourcelines(function)
            at = next(number for number, line in enumerate(lines) if part in line)
            path = Path(getsourcefile(function) or "").relative_to(Path(vitrail.__file__).parent)
            return f"{path.as_posix()}:{first + at}", lines[at].strip()
    return "", ""


def _stop(model: Backbone, step: Step, maps: dict[int, Tensor], shown: Tensor) -> Stop:
    file, code = line_of(step) if isinstance(model, ViT) else ("", "")
    if step.name == "x":
        picture = enlarged(shown.permute(1, 2, 0).numpy())
    else:
        value = maps.get(step.block) if step.value is None else step.value[0]
        picture = None if value is None else thumbnail(value)
    return Stop(step, file, code, picture)


def thumbnail(value: Float[Tensor, "*N"]) -> UInt8[np.ndarray, "H W C"]:
    """A tensor as a picture: its last axis across, all before it down, magnitudes in colour; vectors as a block of rows."""
    rows = value.float().abs().cpu()
    if rows.ndim == 3 and rows.shape[0] < 64:  # heads side by side
        rows = rows.transpose(0, 1).flatten(1)
    rows = rows.flatten(0, -2) if rows.ndim > 1 else _block_of(rows)
    height, width = (min(size, SIDE) for size in rows.shape)
    small = torch.nn.functional.adaptive_avg_pool2d(rows[None], (height, width))[0]
    top = torch.quantile(small.flatten()[:100_000], 0.99).clamp_min(1e-12)
    return enlarged((HEAT((small / top).clamp(0, 1).numpy())[..., :3] * 255).astype(np.uint8))


def _block_of(vector: Float[Tensor, "D"]) -> Float[Tensor, "h w"]:
    """A vector broken into rows about three times as wide as high, zeros at the end."""
    width = max(1, math.ceil((3 * len(vector)) ** 0.5))
    return torch.nn.functional.pad(vector, (0, -len(vector) % width)).unflatten(0, (-1, width))


def enlarged(pixels: np.ndarray) -> Rgb:
    """Three channels, and small ones by a whole factor larger."""
    pixels = as_rgb(pixels).astype(np.uint8)
    factor = max(1, SIDE // max(pixels.shape[:2]))
    return pixels.repeat(factor, 0).repeat(factor, 1)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(files("vitrail.inspection").joinpath("walk.html.jinja").read_text("utf-8"))
