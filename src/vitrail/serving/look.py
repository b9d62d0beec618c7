"""Labels and attention of one image, from one pass of the model; as arrays that travel."""

import contextlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection.attention_hooks import Tap, tapped
from vitrail.inspection.explorer import membership, pool_attention, quantise, shown_grid
from vitrail.inspection.maps import flow_back, readout
from vitrail.models.backbone import Backbone
from vitrail.models.features import Features
from vitrail.prediction.engine import Engine, TorchEngine
from vitrail.prediction.forward import as_input

LEVELS = 256


@dataclass(eq=False)
class Looked:
    """One image in the eyes of a model. Maps are `round(255 √(w / peak))` of attention w, and `peak` the largest of a row."""

    logits: Float[Tensor, "1 K"]
    grid: tuple[int, int] = (0, 0)
    """Rows and columns of patches, as shown."""
    own_grid: tuple[int, int] = (0, 0)
    """Rows and columns of the model's patches; a large grid is shown coarser."""
    first: str = "mean patch"
    """The first row of a map: "class token", or the mean over all patches."""
    layers: Sequence[int] = ()
    heads: int = 0
    maps: UInt8[np.ndarray, "L a m n"] | None = None
    """By layer: the mean of the heads, then each head; by row: what the class token looks at, then each patch."""
    peaks: Float32[np.ndarray, "L a m"] | None = None
    rollout: UInt8[np.ndarray, "n"] | None = None
    missing: str = ""
    """Why there are no maps, or no rollout."""

    @property
    def arrays(self) -> dict[str, np.ndarray | None]:
        return {"maps": self.maps, "rollout": self.rollout, "peaks": self.peaks}


def look(
    engine: Engine,
    image: UInt8[Tensor, "C H W"],
    *,
    layers: Sequence[int] | None = None,
    patches: bool = False,
    positions: bool = True,
) -> Looked:
    """Logits, attention and rollout of an image, from the pass that `engine.logits` would make.

    `layers` are those whose maps are given (None: all). With `patches` a map has a row for each patch, not only for the
    class token. Without `positions` the model gets zeros for position embeddings: patches are then a bag of words.
    An exported graph gives its logits alone.
    """
    if not isinstance(engine, TorchEngine):
        if not positions:
            raise DoesNotApply("an exported graph keeps its position embeddings")
        return Looked(engine.logits(image[None]), missing="an exported graph gives answers and no maps")
    model: Backbone = engine.model  # pyrefly: ignore[bad-assignment]
    taps: list[Tap] = []

    def run(model: Backbone) -> tuple[Features, Float[Tensor, "1 K"]]:
        pixels = as_input(model, image[None], engine.device, engine.preprocess)
        with tapped(model, pixels, taps.append):
            features = model.features(pixels)
        return features, model.head(model.pool(features)).float().cpu()

    with without_positions(model, not positions):
        try:
            features, logits = engine.run(run)
        except DoesNotApply as reason:
            return Looked(engine.logits(image[None]), missing=reason.found)
    shown = [tap for tap in taps if tap.windows == 1 and (layers is None or tap.layer in layers)]
    if not shown:
        return Looked(logits, missing="attention in windows: it has no map of the whole image")
    with torch.no_grad():  # and not in `engine.run`: maps are computed in float32
        found = read_maps(logits, shown, patches)
        if all(tap.windows == 1 for tap in taps) and len({tap.tokens for tap in taps}) == 1:
            found.rollout = roll_out(model, features, taps, found)
    return found


def roll_out(model: Backbone, features: Features, taps: list[Tap], found: Looked) -> UInt8[np.ndarray, "n"]:
    """How much of each patch reaches the answer through all layers, on the grid of the maps."""
    read = readout(model, replace(features, tokens=features.tokens.float()))
    prefix = taps[0].layout.prefix
    flow = flow_back(read, taps)[0, prefix:]  # which empties the list: maps of all layers are large
    return quantise(flow.cpu() @ membership(found.own_grid, found.grid).float(), LEVELS)


def read_maps(logits: Float[Tensor, "1 K"], taps: Sequence[Tap], patches: bool) -> Looked:
    """The maps of these layers, on one grid. A layer of fewer heads than another has empty maps in their places."""
    layout, most = taps[0].layout, max(tap.heads for tap in taps)
    grid = shown_grid(layout.grid, sum(tap.heads + 1 for tap in taps) if patches else 1)
    maps = torch.stack([pad(attention_rows(tap, grid, patches), most + 1) for tap in taps])
    first = "class token" if layout.prefix else "mean patch"
    layers = [tap.layer for tap in taps]
    return Looked(logits, grid, layout.grid, first, layers, most, quantise(maps, LEVELS), maps.amax(-1).numpy())


def attention_rows(tap: Tap, grid: tuple[int, int], patches: bool) -> Float[Tensor, "a m n"]:
    """The mean of the heads, then each head: what the class token (or the mean patch) looks at, then each patch."""
    if patches or not tap.layout.prefix:
        return pool_attention(tap, range(tap.heads), grid)[:, : None if patches else 1]
    cells = membership(tap.layout.grid, grid).float()
    rows = tap.weights([0])[0, :, :, tap.layout.prefix :].float().cpu() @ cells
    return torch.cat([rows.mean(0, keepdim=True), rows])


def pad(maps: Float[Tensor, "a m n"], heads: int) -> Float[Tensor, "b m n"]:
    return torch.cat([maps, maps.new_zeros(heads - len(maps), *maps.shape[1:])])


@contextlib.contextmanager
def without_positions(model: Backbone, wanted: bool) -> Generator[None]:
    """Inside, position embeddings are zeros where that is wanted. Raises DoesNotApply for a model that adds none."""
    positions = getattr(model.trunk, "positions", None)
    if not wanted:
        yield
        return
    if positions is None:
        raise DoesNotApply("this model adds no position embeddings")
    hook = positions.register_forward_hook(lambda _, __, table: torch.zeros_like(table))
    try:
        yield
    finally:
        hook.remove()
