"""E_pos of equation 1: where a token sits. Kinds: none, learned 1-D, learned 2-D, sin-cos; and rotary.

The paper's Table 8 compares none, 1-D, 2-D and relative. Relative positions act inside attention
(`layers.RelativeKeys`), and so do rotary ones (`Rotation`). A learned table follows a new grid of patches by interpolation.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.models.checks import Grid
from vitrail.models.extras import Extras
from vitrail.models.resize import resize_line, resize_table

PositionKind = Literal["none", "learned", "learned-2d", "sincos", "sincos-mae", "relative", "rotary"]


class Positions(nn.Module):
    """Adds nothing itself: gives the table that is added. `prefix` tokens come before the patches."""

    def __init__(self, prefix: int) -> None:
        super().__init__()
        self.prefix = prefix

    def parts(self, grid: Grid, like: Tensor) -> tuple[Float[Tensor, "1 p D"], Float[Tensor, "1 n D"]]:
        """Rows of the first prefix tokens (perhaps of none), and of all patches of the grid."""
        raise NotImplementedError

    def forward(self, grid: Grid, like: Tensor, at: Int[Tensor, "B n"] | None = None) -> Float[Tensor, "_ N D"]:
        """The table of the grid, in the device and dtype of `like`. Prefix tokens without a row get zeros.

        `at` numbers the patches where only some of the grid are there (MAE's encoder sees a quarter of them).
        """
        first, patches = self.parts(grid, like)
        if at is not None:
            patches = patches[0, at]
        blank = patches.new_zeros(1, self.prefix - first.shape[1], patches.shape[2])
        before = torch.cat([first, blank], dim=1).expand(patches.shape[0], -1, -1)
        return torch.cat([before, patches], dim=1)


class LearnedPositions(Positions):
    """The paper's 1-D positions: one vector a token, patches in raster order. The first `own` rows are prefix tokens'."""

    def __init__(self, width: int, grid: Grid, *, prefix: int, own: int, resize: str) -> None:
        super().__init__(prefix)
        self.grid, self.own, self.resize = grid, own, resize
        self.table = nn.Parameter(torch.empty(1, own + grid[0] * grid[1], width))

    def parts(self, grid: Grid, like: Tensor) -> tuple[Float[Tensor, "1 p D"], Float[Tensor, "1 n D"]]:
        return self.table[:, : self.own], resize_table(self.table[:, self.own :], self.grid, grid, self.resize)

    def initialise(self, generator: torch.Generator) -> None:
        self.table.data.normal_(std=0.02, generator=generator)


class LearnedPositions2d(Positions):
    """A learned vector of half the width per row and per column, concatenated [row | column] (paper D.4)."""

    def __init__(self, width: int, grid: Grid, *, prefix: int) -> None:
        super().__init__(prefix)
        self.rows = nn.Parameter(torch.empty(1, grid[0], width // 2))
        self.columns = nn.Parameter(torch.empty(1, grid[1], width // 2))

    def parts(self, grid: Grid, like: Tensor) -> tuple[Float[Tensor, "1 p D"], Float[Tensor, "1 n D"]]:
        rows = repeat(resize_line(self.rows, grid[0]), "1 h D -> 1 (h w) D", w=grid[1])
        columns = repeat(resize_line(self.columns, grid[1]), "1 w D -> 1 (h w) D", h=grid[0])
        table = torch.cat([rows, columns], dim=2)
        return table[:, :0], table

    def initialise(self, generator: torch.Generator) -> None:
        for table in (self.rows, self.columns):
            table.data.normal_(std=0.02, generator=generator)


class SinCosPositions(Positions):
    """Fixed sines and cosines of row and column, computed for each grid: exact at any size, none is stored."""

    def __init__(self, width: int, kind: str, *, prefix: int = 0) -> None:
        super().__init__(prefix)
        self.width, self.kind = width, kind

    def parts(self, grid: Grid, like: Tensor) -> tuple[Float[Tensor, "1 p D"], Float[Tensor, "1 n D"]]:
        table = sincos(grid, self.width, self.kind, device=like.device).to(like.dtype)
        return table[:, :0], table


def sincos(
    grid: Grid, width: int, kind: str = "sincos", *, device: torch.device | None = None
) -> Float[Tensor, "1 N D"]:
    """The table of `grid` in float32. Both origins use a quarter of the width for each of sin x, cos x, sin y, cos y.

    `sincos`: big_vision's ω_k = 10000^(-k / (D/4 - 1)). `sincos-mae`: MAE's ω_k = 10000^(-k / (D/4)).
    """
    quarter = width // 4
    last = quarter - 1 if kind == "sincos" else quarter
    omega = 10_000.0 ** -(torch.arange(quarter, device=device, dtype=torch.float64) / max(1, last))
    y = repeat(torch.arange(grid[0], device=device)[:, None] * omega, "h k -> (h w) k", w=grid[1])
    x = repeat(torch.arange(grid[1], device=device)[:, None] * omega, "w k -> (h w) k", h=grid[0])
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)[None].float()


@dataclass(frozen=True)
class Rotary:
    """One way to turn queries and keys by the row and column of their patch (RoPE, arXiv 2104.09864, on two axes)."""

    base: float
    """Periods rise from 2π patches (or 1) to nearly `base` times that."""
    centres: bool = False
    """Coordinates are centres of patches between -1 and 1, whatever the grid; else numbers of rows and columns."""
    halves: bool = False
    """Feature i turns with feature i + d/2; else each even one with the next."""
    columns_first: bool = False
    """The first half of the frequencies is for columns; else for rows."""
    offset: float = 0.0
    """Added to the number of a row and of a column."""
    rounded: bool = False
    """Periods have the precision of bfloat16."""


ROTARIES = {
    "dinov3": Rotary(100.0, centres=True, halves=True),  # arXiv 2508.10104; timm's and transformers' code
    "dinov3-rounded": Rotary(100.0, centres=True, halves=True, rounded=True),  # Meta's files: periods in bfloat16
    "eva02": Rotary(10_000.0),  # arXiv 2303.11331
    "pe": Rotary(10_000.0, columns_first=True, offset=1.0),  # arXiv 2504.13181: the class token is at 0
    "pe-patches": Rotary(10_000.0, columns_first=True),  # the same without class token
    "rope-vit": Rotary(100.0, columns_first=True),  # arXiv 2403.13298, axial
}


def rotary_of(name: str) -> Rotary:
    """The row of ROTARIES; DINOv3's for an empty name, which is what positions="rotary" alone means."""
    return ROTARIES[name or "dinov3"]


class Rotation(nn.Module):
    """Gives cosines and sines that turn queries and keys; tokens before the patches are not turned."""

    def __init__(self, name: str, head_width: int, *, prefix: int, trained_on: int = 0) -> None:
        super().__init__()
        self.rotary, self.head_width, self.prefix, self.trained_on = rotary_of(name), head_width, prefix, trained_on

    def forward(self, grid: Grid, like: Tensor, at: Int[Tensor, "B n"] | None = None) -> Float[Tensor, "2 _ N d"]:
        """(cosines, sines) in the device of `like`, in float32 at least. `at` numbers the patches if some are missing."""
        angles = self.angles(grid, like)
        angles = torch.cat([angles, angles], 1) if self.rotary.halves else angles.repeat_interleave(2, 1)
        turns = torch.stack([angles.cos(), angles.sin()])[:, None]  # 2 1 n d
        if at is not None:
            turns = turns[:, 0, at]
        still = turns.new_tensor([1.0, 0.0])[:, None, None, None].expand(
            2, turns.shape[1], self.prefix, self.head_width
        )
        return torch.cat([still, turns], dim=2)

    def angles(self, grid: Grid, like: Tensor) -> Float[Tensor, "n half"]:
        """The angle of each patch at each of d/2 frequencies. Places and frequencies are float32, as the originals'."""
        how, quarter, device = self.rotary, self.head_width // 4, like.device
        exact = torch.promote_types(like.dtype, torch.float32)
        places = [self._places(size, device).to(exact) for size in grid]
        y, x = (axis.flatten() for axis in torch.meshgrid(*places, indexing="ij"))
        axes = torch.stack((x, y) if how.columns_first else (y, x), dim=1)[:, :, None]
        exponents = torch.arange(quarter, device=device, dtype=torch.float32) / quarter
        if not how.centres:
            return (axes * (1.0 / how.base**exponents).to(exact)).flatten(1)
        return (2 * math.pi * axes / self.periods(device).to(exact)).flatten(1)

    def periods(self, device: torch.device | None = None) -> Float[Tensor, "_"]:
        """How far it is, in the coordinates of the patches, to the same angle again: one number a frequency (DINOv3)."""
        exponents = (
            2.0 * torch.arange(self.head_width // 4, device=device, dtype=torch.float32) / (self.head_width // 2)
        )
        periods = self.rotary.base**exponents
        return periods.bfloat16().float() if self.rotary.rounded else periods

    def _places(self, size: int, device: torch.device | None) -> Float[Tensor, "_"]:
        if self.rotary.centres:
            return 2.0 * (torch.arange(size, device=device, dtype=torch.float32) + 0.5) / size - 1.0
        numbers = torch.arange(size, device=device, dtype=torch.float32) + self.rotary.offset
        return numbers / size * self.trained_on if self.trained_on else numbers


def make_rotation(kind: PositionKind, extras: Extras, head_width: int, prefix: int) -> Rotation | None:
    """The turns of queries and keys; None in a model whose positions are not rotary."""
    if kind != "rotary" and not extras.rotary:
        return None
    return Rotation(extras.rotary, head_width, prefix=prefix, trained_on=extras.rotary_grid)


def rotate(x: Float[Tensor, "B A N d"], turns: Float[Tensor, "2 _ N d"], *, halves: bool) -> Float[Tensor, "B A N d"]:
    """Each pair of features (a, b) turned by its angle φ: (a cos φ - b sin φ, b cos φ + a sin φ)."""
    first, second = x.chunk(2, -1) if halves else (x[..., ::2], x[..., 1::2])
    crossed = torch.cat([-second, first], -1) if halves else torch.stack([-second, first], -1).flatten(-2)
    cosines, sines = turns[:, :, None]
    return (x * cosines + crossed * sines).to(x.dtype)


def make_positions(
    kind: PositionKind, width: int, grid: Grid, *, prefix: int, own: int, resize: str
) -> Positions | None:
    """The module whose table is added to the tokens. None where nothing is, or where positions act inside attention."""
    if kind == "learned":
        return LearnedPositions(width, grid, prefix=prefix, own=own, resize=resize)
    if kind == "learned-2d":
        return LearnedPositions2d(width, grid, prefix=prefix)
    if kind in ("sincos", "sincos-mae"):
        return SinCosPositions(width, kind, prefix=prefix)
    return None
