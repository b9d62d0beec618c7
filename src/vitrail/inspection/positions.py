"""Trained position embeddings: their similarity (the paper's figure 7), rows, columns and waves."""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import DoesNotApply
from vitrail.inspection.attention_hooks import family
from vitrail.inspection.pca import Components, components
from vitrail.models.backbone import Backbone

FREQUENCIES = 33
"""Frequencies tried along each axis, from 0 to half a wave a patch."""


@dataclass(frozen=True, eq=False)
class Structure:
    """How much of a position table is rows, columns and waves. Shares of its variance lie between 0 and 1."""

    rows: float
    """Share of the variance that the row alone explains."""
    columns: float
    interaction: float
    """Share that rows and columns added together do not explain."""
    neighbours: float
    """Mean cosine of patches that touch."""
    same_line: float
    """Mean cosine of patches in the same row or column."""
    elsewhere: float
    """Mean cosine of all other pairs."""
    by_distance: float
    """Correlation of cosine with distance on the grid: -1 is similarity that only falls with distance."""
    waves: float
    """Share of the first components' variance that one plane wave each explains (least squares)."""


def position_table(model: Backbone, grid: tuple[int, int] | None = None) -> Float[Tensor, "h w D"]:
    """The position embeddings of the patches, learned or computed, at `grid` (default: the model's own).

    Raises DoesNotApply for a model that adds none.
    """
    inner = model.trunk
    positions = getattr(inner, "positions", None)
    if not isinstance(positions, nn.Module):
        kind = getattr(inner.config, "positions", "")
        why = f" with positions={kind!r}" if kind else ""
        raise DoesNotApply(f"a {family(model)}{why} adds no position embeddings")
    with torch.no_grad():
        grid = grid or inner.config.grid  # pyrefly: ignore[missing-attribute]
        table = positions(grid, next(inner.parameters()))[0, positions.prefix :].detach()
    return rearrange(table.float().cpu(), "(h w) D -> h w D", h=grid[0])


def position_similarity(table: Float[Tensor, "h w D"]) -> Float[Tensor, "h w h w"]:
    """Cosine of each position embedding with all others, the paper's figure 7 (centre)."""
    flat = nn.functional.normalize(table.flatten(0, 1).double(), dim=1)
    h, w = table.shape[:2]
    return (flat @ flat.T).clamp(-1, 1).float().unflatten(0, (h, w)).unflatten(2, (h, w))


def position_components(table: Float[Tensor, "h w D"], count: int = 12) -> Components:
    """Principal components over positions; `scores` are maps h × w."""
    found = components(table.flatten(0, 1), count)
    return Components(found.directions, rearrange(found.scores, "(h w) k -> k h w", h=table.shape[0]), found.explained)


def position_structure(table: Float[Tensor, "h w D"], count: int = 12) -> Structure:
    """The table in a few numbers."""
    rows, columns = _lines(table)
    found = position_components(table, count)
    waves = torch.tensor([wave_share(score) for score in found.scores])
    near, line, far, slope = _by_place(table)
    return Structure(
        rows=rows,
        columns=columns,
        interaction=max(0.0, round(1 - rows - columns, 12)),
        neighbours=near,
        same_line=line,
        elsewhere=far,
        by_distance=slope,
        waves=float((waves * found.explained).sum() / found.explained.sum().clamp_min(1e-12)),
    )


def wave_share(values: Float[Tensor, "h w"]) -> float:
    """The largest share of the variance that one plane wave cos(ω·place + φ) explains, over a grid of frequencies ω."""
    h, w = values.shape
    centred = (values - values.mean()).double().flatten()
    total = float(centred.square().sum())
    if total == 0:
        return 0.0
    omega = torch.linspace(-torch.pi, torch.pi, 2 * FREQUENCIES - 1, dtype=torch.float64)
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    # half of the plane is enough: a wave and its mirror through the origin are one
    phases = omega[FREQUENCIES - 1 :, None, None] * y.flatten() + omega[:, None] * x.flatten()
    waves = torch.stack([phases.cos(), phases.sin()], dim=-1).flatten(0, 1)
    waves = waves - waves.mean(1, keepdim=True)
    # the projection on two waves: solve the 2×2 normal equations of all frequencies at once
    gram = waves.transpose(1, 2) @ waves + 1e-9 * torch.eye(2, dtype=torch.float64)
    right = waves.transpose(1, 2) @ centred
    explained = (right * torch.linalg.solve(gram, right)).sum(1)
    return min(1.0, float(explained.max()) / total)


def _lines(table: Float[Tensor, "h w D"]) -> tuple[float, float]:
    """Shares of the variance between rows and between columns (a two-way analysis of variance without interaction)."""
    centred = table.double() - table.double().mean((0, 1))
    total = centred.square().mean().clamp_min(1e-30)
    return tuple(float(centred.mean(axis).square().mean() / total) for axis in (1, 0))  # pyrefly: ignore[bad-return]


def _by_place(table: Float[Tensor, "h w D"]) -> tuple[float, float, float, float]:
    similarity = rearrange(position_similarity(table), "a b c d -> (a b) (c d)").double()
    h, w = table.shape[:2]
    y, x = torch.arange(h).repeat_interleave(w), torch.arange(w).repeat(h)
    distance = torch.hypot((y[:, None] - y).double(), (x[:, None] - x).double())
    line = (y[:, None] == y) | (x[:, None] == x)
    groups = (distance == 1, line & (distance > 0), ~line)
    near, same, far = (float(similarity[group].mean()) if group.any() else 0.0 for group in groups)
    pairs = torch.stack([similarity[distance > 0], distance[distance > 0]])
    varies = pairs.shape[1] > 1 and bool((pairs.std(1) > 0).all())
    return near, same, far, float(torch.corrcoef(pairs)[0, 1]) if varies else 0.0
