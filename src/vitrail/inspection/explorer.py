"""The interactive part of the report: point at a patch, and see where each head of each layer looks from there."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from vitrail.inspection.attention_hooks import Tap, choose, watch
from vitrail.inspection.figures import HEAT, Pixels, shrink
from vitrail.models.backbone import Backbone
from vitrail.reports.page import data_address, template

MOST_CELLS = 7_000_000
"""Numbers a model's maps of one image may have; larger grids are shown coarser."""
LEVELS = 24
"""Steps of brightness: enough for the eye, few enough to compress."""


@dataclass(eq=False)
class Looks:
    """A model's attention over one image, as the page shows it."""

    picture: Pixels
    heads: tuple[int, ...]
    grid: tuple[int, int] = (0, 0)
    """Rows and columns shown."""
    coarser: bool = False
    prefix: bool = False
    """Whether there is a class token, or another that is no patch."""
    layers: list[int] = field(default_factory=list)
    maps: list[UInt8[np.ndarray, "a m n"]] = field(default_factory=list)
    """For each layer: the mean of the heads, then each; row 0 is what the class token (or the mean patch) looks at."""


def read_attention(
    model: Backbone,
    image: UInt8[Tensor, "C H W"],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> Looks:
    """All attention of one image at a size a page can hold, layer by layer; nothing larger is ever kept."""
    found = Looks(image.permute(1, 2, 0).numpy(), ())
    counts: list[int] = []
    watch(model, image[None], lambda tap: counts.append(tap.heads * (tap.windows == 1)), layers=layers)

    def visit(tap: Tap) -> None:
        if tap.windows != 1:  # of MaxViT's layers, those that see the whole map
            return
        found.prefix = tap.layout.prefix > 0
        chosen = choose(heads, tap.heads, "head")
        found.heads, found.grid = tuple(chosen), shown_grid(tap.layout.grid, sum(counts))
        found.coarser = found.grid != tap.layout.grid
        found.layers.append(tap.layer)
        found.maps.append(quantise(pool_attention(tap, [head - 1 for head in chosen], found.grid)))

    watch(model, image[None], visit, layers=layers)
    return found


def shown_grid(grid: tuple[int, int], maps: int) -> tuple[int, int]:
    """The grid itself where `maps` maps of all its pairs fit in MOST_CELLS, else a coarser one of its shape."""
    cells = (MOST_CELLS / max(1, maps)) ** 0.5
    scale = min(1.0, (cells / (grid[0] * grid[1])) ** 0.5)
    return max(1, int(grid[0] * scale)), max(1, int(grid[1] * scale))


def pool_attention(tap: Tap, heads: Sequence[int], grid: tuple[int, int]) -> Float[Tensor, "a m n"]:
    """Attention between the cells of a coarser grid: keys added, queries averaged; row 0 is the class token's."""
    cells = membership(tap.layout.grid, grid).to(tap.q.device, torch.float32)
    prefix = tap.layout.prefix
    total = torch.zeros(len(heads), cells.shape[1], cells.shape[1], device=tap.q.device)
    for rows, weights in tap.stream(heads, start=prefix):
        queries = cells[rows.start - prefix : rows.stop - prefix]
        total += torch.einsum("nq,anm->aqm", queries, weights[0, :, :, prefix:].float() @ cells)
    total /= cells.sum(0)[:, None]
    first = tap.weights([0], heads)[0, :, :, prefix:].float() @ cells if prefix else total.mean(1, keepdim=True)
    rows = torch.cat([first, total], dim=1)
    return torch.cat([rows.mean(0, keepdim=True), rows]).cpu()


def membership(fine: tuple[int, int], coarse: tuple[int, int]) -> Float[Tensor, "n m"]:
    """How much of each fine cell lies in each coarse one; rows sum to 1."""
    axes = []
    for many, few in zip(fine, coarse, strict=True):
        edges = torch.arange(many + 1, dtype=torch.float64) * few / many
        cells = torch.arange(few, dtype=torch.float64)
        overlap = torch.minimum(edges[1:, None], cells + 1) - torch.maximum(edges[:-1, None], cells)
        axes.append(overlap.clamp_min(0) * many / few)
    return torch.kron(axes[0], axes[1])


def quantise(maps: Float[Tensor, "*rows n"], levels: int = LEVELS) -> UInt8[np.ndarray, "*rows n"]:
    """Square roots of the shares of each row's largest, in `levels` steps: faint attention stays visible."""
    shares = maps / maps.amax(-1, keepdim=True).clamp_min(1e-30)
    return shares.sqrt_().mul_(levels - 1).round_().to(torch.uint8).numpy()


def explorer(models: Sequence[tuple[str, Sequence[Looks]]], names: Sequence[str]) -> str:
    """The markup: pictures, sliders and a script, the maps of each (model, image) as PNG; all in itself."""
    data = {
        "images": list(names),
        "colours": (HEAT(np.linspace(0, 1, LEVELS))[:, :3] * 255).round().astype(int).tolist(),
        "models": [{"name": name, "images": [_to_data(one) for one in seen]} for name, seen in models],
    }
    most = {
        "layers": max(len(one.layers) for _, seen in models for one in seen),
        "heads": max(len(one.heads) for _, seen in models for one in seen),
    }
    # a name may hold anything: no </script> may end the data early
    text = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
    first = " or ".join(sorted({one["first"] for model in data["models"] for one in model["images"]}))
    coarser = any(one.coarser for _, seen in models for one in seen)
    return template("vitrail.inspection", "explorer").render(
        data=text, models=data["models"], images=data["images"], first=first, coarser=coarser, **most
    )


def _to_data(one: Looks) -> dict[str, Any]:
    picture = shrink(one.picture, 448)
    height, width = one.picture.shape[:2]
    return {
        "source": data_address(Image.fromarray(picture), "png" if max(height, width) <= 64 else "jpeg"),
        "size": [height, width],
        "first": "the class token" if one.prefix else "the mean patch",
        "grid": list(one.grid),
        "layers": one.layers,
        "heads": list(one.heads),
        "maps": [data_address(Image.fromarray(maps.reshape(-1, maps.shape[-1])), "png") for maps in one.maps],
    }
