"""How a table of positions follows a new grid of patches: by interpolation, as each origin of weights does it."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from vitrail.models.checks import Grid

Resize = Literal[
    "bilinear", "bilinear-antialias", "bicubic", "bicubic-corners", "bicubic-antialias", "dinov2", "dinov2-size"
]

RESIZES: dict[str, dict[str, Any]] = {
    "bilinear": {"mode": "bilinear", "align_corners": True},  # vision_transformer, big_vision (scipy's zoom, order 1)
    "bilinear-antialias": {"mode": "bilinear", "align_corners": False, "antialias": True},  # SigLIP 2's NaFlex, TIPSv2
    "bicubic": {"mode": "bicubic", "align_corners": False},  # MAE, DeiT, transformers
    "bicubic-corners": {"mode": "bicubic", "align_corners": True},  # torchvision
    "bicubic-antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},  # timm, DINOv2 with registers
    "dinov2": {"mode": "bicubic", "align_corners": False},  # samples with the scale (n + 0.1) / m, not n / m
    "dinov2-size": {"mode": "bicubic", "align_corners": False},  # transformers' DINOv2: "bicubic", but in float32
}
SINGLE = ("bilinear-antialias", "bicubic-antialias", "dinov2", "dinov2-size")
"""Their code interpolates in float32, whatever the model computes in."""


def resize_table(table: Float[Tensor, "1 m D"], old: Grid, new: Grid, how: str = "bilinear") -> Float[Tensor, "1 n D"]:
    """A table of `old` (h, w) patches, without prefix tokens, sampled at `new`; `how` is a row of RESIZES."""
    if old == new:
        return table
    maps = rearrange(table, "1 (h w) D -> 1 D h w", h=old[0])
    # half precision would round positions; float64 stays as it is
    maps = maps if maps.dtype == torch.float64 and how not in SINGLE else maps.float()
    if how == "dinov2":
        scale = tuple((n + 0.1) / m for n, m in zip(new, old, strict=True))
        maps = F.interpolate(maps, scale_factor=scale, **RESIZES[how])
    else:
        maps = F.interpolate(maps, size=new, **RESIZES[how])
    return rearrange(maps, "1 D h w -> 1 (h w) D").to(table.dtype)


def resize_line(table: Float[Tensor, "1 m D"], length: int) -> Float[Tensor, "1 n D"]:
    """A table along one axis, sampled linearly at `length` places, ends aligned."""
    if table.shape[1] == length:
        return table
    lines = rearrange(table, "1 m D -> 1 D m")
    return rearrange(F.interpolate(lines, size=length, mode="linear", align_corners=True), "1 D n -> 1 n D")
