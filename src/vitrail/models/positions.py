"""E_pos of equation 1: where a token sits. Kinds: none, learned 1-D, learned 2-D, sin-cos.

The paper's Table 8 compares none, 1-D, 2-D and relative. Relative positions act inside attention
(`layers.RelativeKeys`). A learned table follows a new grid of patches by interpolation.
"""

from typing import Literal

import torch
from einops import repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.models.checks import Grid
from vitrail.models.resize import resize_line, resize_table

PositionKind = Literal["none", "learned", "learned-2d", "sincos", "sincos-mae", "relative"]


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
