"""Attention maps: exact weights of chosen layers, heads and query rows; and rollout, the flow through all layers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float, Shaped
from torch import Tensor

from vitrail import machine
from vitrail.errors import ConfigError, DoesNotApply
from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import (
    Layout,
    Tap,
    attention_layers,
    choose,
    layout_of,
    prepare_images,
    watch,
)
from vitrail.models.backbone import Backbone
from vitrail.models.features import Features
from vitrail.models.layers import Attention, AttentionPool
from vitrail.prediction.forward import answering, place


@dataclass(frozen=True, eq=False)
class AttentionMap:
    """One layer: `weights[b, a, i, j]` is what query `queries[i]` of head `heads[a]` gives to token j."""

    layer: int
    """From 1, as the heads."""
    name: str
    heads: tuple[int, ...]
    queries: tuple[int, ...]
    """Token numbers: the prefix first (0 is the class token), then the patches row by row."""
    layout: Layout
    weights: Float[Tensor, "B a n N"]
    """Where windows attend apart (MaxViT), B is images × windows."""

    @property
    def patches(self) -> Float[Tensor, "B a n h w"]:
        """The attention to the patches, laid out as the image."""
        return self.weights[..., self.layout.prefix :].unflatten(-1, self.layout.grid)


def attention(
    model: Backbone,
    images: Shaped[Tensor, "B C H W"],
    *,
    layers: Iterable[int] | None = None,
    heads: Iterable[int] | None = None,
    queries: Iterable[int] | None = None,
    preprocess: Preprocess | None = None,
) -> list[AttentionMap]:
    """Exact attention weights, on the CPU, of the chosen layers, heads and query rows (each: all), first layer first.

    They are recomputed beside the fused path; the model's outputs do not change by a bit. Layers and heads count from
    1, -1 is the last; query 0 is the class token where there is one. Raises DoesNotApply for a model without attention,
    ConfigError for a layer, head or query it has not. Maps that would not fit in memory are a ConfigError too:
    `attention_hooks.watch` streams them.
    """
    layers, heads, queries = (None if wanted is None else list(wanted) for wanted in (layers, heads, queries))
    found: list[AttentionMap] = []

    def visit(tap: Tap) -> None:
        chosen, rows = choose(heads, tap.heads, "head"), choose(queries, tap.tokens, "token", first=0)
        if tap.layer == first:
            _check_memory(len(images) * tap.windows * len(chosen) * len(rows) * tap.tokens * len(numbers))
        places = None if heads is None else [head - 1 for head in chosen]
        weights = tap.weights(slice(None) if queries is None else rows, places).cpu()
        found.append(AttentionMap(tap.layer, tap.name, tuple(chosen), tuple(rows), tap.layout, weights))

    numbers = choose(layers, len(attention_layers(model)), "layer")
    first = numbers[0] if numbers else -1
    watch(model, images, visit, layers=numbers, preprocess=preprocess)
    return found


def _check_memory(numbers: int) -> None:
    needed, there = 4 * numbers, machine.memory().available
    if needed > there:
        raise ConfigError(
            f"these attention maps are {needed / 2**30:.1f} GiB, of {there / 2**30:.1f} GiB of free memory",
            next_step="name layers, heads or queries, or take them row by row with inspection.attention_hooks.watch",
        )


def rollout(maps: Sequence[Float[Tensor, "B A N N"]]) -> Float[Tensor, "B N N"]:
    """Attention rollout (Abnar & Zuidema 2020; the ViT paper, D.7), of all layers' maps, first layer first.

    Heads averaged, identity added, rows normalised, layers multiplied: row i says where token i of the last layer comes
    from. For a model `rollout_of` gives the row that is read out, without any N×N matrix.
    """
    flow = torch.eye(maps[0].shape[-1], dtype=maps[0].dtype).expand(len(maps[0]), -1, -1)
    for weights in maps:
        mixed = weights.mean(1) + torch.eye(weights.shape[-1], dtype=weights.dtype)
        flow = mixed / mixed.sum(-1, keepdim=True) @ flow
    return flow


def rollout_of(
    model: Backbone, images: Shaped[Tensor, "B C H W"], *, preprocess: Preprocess | None = None
) -> Float[Tensor, "B h w"]:
    """Rollout of what the head reads (class token, mean of the patches or learned probe), on the patches.

    The rows sum to 1 together with what stays on the prefix tokens. q and k of all layers are kept, their maps never:
    from the last layer to the first a single row of the product is carried.
    """
    taps: list[Tap] = []
    pixels = prepare_images(model, images, preprocess)
    if any(not isinstance(module, Attention) for _, module in attention_layers(model)):
        raise DoesNotApply("the layers of a MaxViT attend in different windows: there is no one way to multiply them")
    watch(model, pixels, taps.append)
    with answering(model, place(model), torch.float32):
        flow = readout(model, model.features(pixels))
    layout = layout_of(model, pixels)
    return flow_back(flow, taps)[:, layout.prefix :].unflatten(1, layout.grid).cpu()


def flow_back(flow: Float[Tensor, "B N"], taps: list[Tap]) -> Float[Tensor, "B N"]:
    """The shares read of the last layer's tokens, carried to the first layer's; the taps are used up."""
    while taps:
        flow = _carry(flow, taps.pop())
    return flow


def _carry(flow: Float[Tensor, "B N"], tap: Tap) -> Float[Tensor, "B N"]:
    """flow · (mean over heads of A + 1) / 2: the rows of A sum to 1, those of the sum to 2."""
    passed = torch.zeros_like(flow)
    for rows, weights in tap.stream():
        passed += torch.einsum("bn,bnm->bm", flow[:, rows], weights.mean(1))
    return (flow + passed) / 2


def readout(model: Backbone, features: Features) -> Float[Tensor, "B N"]:
    """How much of each token the head reads: class token, mean of the patches, or what a trained probe gathers."""
    inner = model.trunk
    weights = features.tokens.new_zeros(features.tokens.shape[:2])
    if isinstance(pool := getattr(inner, "attention_pool", None), AttentionPool):
        q = rearrange(pool.q(pool.probe), "1 1 (A d) -> 1 A 1 d", A=pool.heads)
        first = 0 if inner.config.extras.pool_prefix else features.prefix
        k, _ = rearrange(pool.kv(features.tokens[:, first:]), "B N (two A d) -> two B A N d", two=2, A=pool.heads)
        weights[:, first:] = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(-1).mean(1)[:, 0]
        return weights
    tokens, patches = READ[inner.config.reads]
    weights[:, : len(tokens)] = weights.new_tensor(tokens)
    weights[:, features.prefix :] += patches / (features.tokens.shape[1] - features.prefix)
    return weights


READ: dict[str, tuple[tuple[float, ...], float]] = {
    "cls": ((1.0,), 0.0),
    "distilled": ((0.5, 0.5), 0.0),
    "mean": ((), 1.0),
    "cls-mean": ((0.5,), 0.5),
}
"""How the head's reading is shared out: among the first tokens, and over all patches together."""
