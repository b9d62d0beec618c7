"""Where a patch sits: none · learned 1-D · learned 2-D · sin-cos; and how a learned table follows a new grid.

The ViT paper's Table 8 compares none, 1-D, 2-D and relative; those act inside attention (`layers.RelativeKeys`).
Each kind is called with the grid and a parameter `like` it must match in device and dtype, and gives a table to add.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

Grid = tuple[int, int]
PositionKind = Literal["none", "learned", "learned-2d", "sincos", "sincos-mae", "relative"]
Resize = Literal["bilinear", "bicubic", "bicubic-corners", "bicubic-antialias", "dinov2", "dinov2-size"]

RESIZES: dict[str, dict] = {
    "bilinear": {"mode": "bilinear", "align_corners": True},  # vision_transformer, big_vision (scipy's zoom, order 1)
    "bicubic": {"mode": "bicubic", "align_corners": False},  # MAE, DeiT, transformers
    "bicubic-corners": {"mode": "bicubic", "align_corners": True},  # torchvision
    "bicubic-antialias": {"mode": "bicubic", "align_corners": False, "antialias": True},  # timm, DINOv2 with registers
    "dinov2": {"mode": "bicubic", "align_corners": False},  # samples with the scale (n + 0.1) / m, not n / m
    "dinov2-size": {"mode": "bicubic", "align_corners": False},  # transformers' DINOv2: "bicubic", but in float32
}
SINGLE = ("bicubic-antialias", "dinov2", "dinov2-size")
"""Whose code interpolates in float32, whatever the model computes in."""


def resize_table(table: Float[Tensor, "1 m D"], old: Grid, new: Grid, how: str = "bilinear") -> Float[Tensor, "1 n D"]:
    """A table of `old` (h, w) patches, without prefix tokens, sampled at `new`; `how` is a row of RESIZES."""
    if old == new:
        return table
    maps = table.unflatten(1, old).permute(0, 3, 1, 2)
    # half precision would round positions; float64 stays itself
    maps = maps if maps.dtype == torch.float64 and how not in SINGLE else maps.float()
    if how == "dinov2":
        scale = tuple((n + 0.1) / m for n, m in zip(new, old, strict=True))
        maps = F.interpolate(maps, scale_factor=scale, **RESIZES[how])
    else:
        maps = F.interpolate(maps, size=new, **RESIZES[how])
    return maps.flatten(2).transpose(1, 2).to(table.dtype)


class LearnedPositions(nn.Module):
    """One vector a token, in raster order (the paper's 1-D): E_pos of equation 1. The first `prefix` are no patches."""

    def __init__(self, width: int, grid: Grid, *, prefix: int, resize: str) -> None:
        super().__init__()
        self.grid, self.prefix, self.resize = grid, prefix, resize
        self.table = nn.Parameter(torch.empty(1, prefix + grid[0] * grid[1], width))

    def forward(self, grid: Grid, like: Tensor) -> Float[Tensor, "1 N D"]:
        """The table at this grid. Resizing costs little beside a forward pass, so none is kept."""
        if grid == self.grid:
            return self.table
        prefix, patches = self.table.split([self.prefix, self.table.shape[1] - self.prefix], dim=1)
        return torch.cat([prefix, resize_table(patches, self.grid, grid, self.resize)], dim=1)

    def initialise(self, generator: torch.Generator) -> None:
        self.table.data.normal_(std=0.02, generator=generator)


class LearnedPositions2d(nn.Module):
    """A learned vector of half the width per row and per column, concatenated [row | column] (paper D.4)."""

    prefix = 0

    def __init__(self, width: int, grid: Grid) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.empty(1, grid[0], width // 2))
        self.columns = nn.Parameter(torch.empty(1, grid[1], width // 2))

    def forward(self, grid: Grid, like: Tensor) -> Float[Tensor, "1 N D"]:
        rows = resize_line(self.rows, grid[0])[:, :, None].expand(-1, -1, grid[1], -1)
        columns = resize_line(self.columns, grid[1])[:, None].expand(-1, grid[0], -1, -1)
        return torch.cat([rows, columns], dim=-1).flatten(1, 2)

    def initialise(self, generator: torch.Generator) -> None:
        for table in (self.rows, self.columns):
            table.data.normal_(std=0.02, generator=generator)


def resize_line(table: Float[Tensor, "1 m D"], length: int) -> Float[Tensor, "1 n D"]:
    """A table along one axis, sampled linearly at `length` places, ends aligned."""
    if table.shape[1] == length:
        return table
    return F.interpolate(table.transpose(1, 2), size=length, mode="linear", align_corners=True).transpose(1, 2)


class SinCosPositions(nn.Module):
    """Fixed sines and cosines of row and column, computed for the grid at hand: any is exact, none is stored."""

    prefix = 0

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.width, self.kind = width, kind

    def forward(self, grid: Grid, like: Tensor) -> Float[Tensor, "1 N D"]:
        return sincos(grid, self.width, self.kind, device=like.device).to(like.dtype)


def sincos(
    grid: Grid, width: int, kind: str = "sincos", *, device: torch.device | None = None
) -> Float[Tensor, "1 N D"]:
    """The table of `grid` in float32. Both origins use a quarter of the width for each of sin x, cos x, sin y, cos y.

    `sincos`: big_vision's ω_k = 10000^(-k / (D/4 - 1)). `sincos-mae`: MAE's ω_k = 10000^(-k / (D/4)).
    """
    quarter = width // 4
    last = quarter - 1 if kind == "sincos" else quarter
    omega = 10_000.0 ** -(torch.arange(quarter, device=device, dtype=torch.float64) / max(1, last))
    y = torch.arange(grid[0], device=device)[:, None, None] * omega
    x = torch.arange(grid[1], device=device)[None, :, None] * omega
    parts = [wave(axis).expand(*grid, quarter) for axis in (x, y) for wave in (torch.sin, torch.cos)]
    return torch.cat(parts, dim=-1).flatten(0, 1)[None].float()
