"""The heads in numbers: how far each looks, how widely, and how much of it goes to tokens that are no patches."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import Layout, Tap, prepare_images, watch
from vitrail.models.backbone import Backbone


@dataclass(frozen=True, eq=False)
class Heads:
    """The heads of one layer over images: each I images × A heads, means over the queries that are patches."""

    layer: int
    """From 1."""
    name: str
    distance: Float[Tensor, "I A"]
    """Attention distance in pixels."""
    entropy: Float[Tensor, "I A"]
    """Entropy of the weights over all tokens, in nats: 0 looks at one token, log N at all alike."""
    view: Float[Tensor, "I A"]
    """Share of the image a head sees: exp(entropy over the patches) / patches; 1 is all of it, evenly."""
    prefix: Float[Tensor, "I A"]
    """Share of the attention that goes to class and register tokens."""


def attention_distance(
    weights: Float[Tensor, "*B N N"], *, grid: tuple[int, int], patch: tuple[float, float], prefix: int = 1
) -> Float[Tensor, "*B"]:
    """The paper's attention distance (section 4.5, figure 11), in pixels, of weights whose last axes are queries and
    keys.

    The mean over patch queries of Σ weight · distance over patch keys; distances are Euclidean on the grid, times the
    patch size. As in the authors' code the prefix is left out of queries and keys, and what went to it counts as no
    distance: the rows are not normalised again.
    """
    return _distance(weights[..., prefix:, prefix:], Layout(prefix, grid, patch).distances())


def heads(
    model: Backbone,
    images: Shaped[Tensor, "I C H W"],
    *,
    layers: Iterable[int] | None = None,
    preprocess: Preprocess | None = None,
    batch_size: int = 16,
) -> list[Heads]:
    """Distance, entropy, view and prefix share of every head for every image, in one pass; layers count from 1.

    The paper uses 128 images. Windows of one image (MaxViT) are averaged. Raises DoesNotApply without attention.
    """
    layers = None if layers is None else list(layers)
    parts: dict[int, list[Heads]] = {}

    def visit(tap: Tap) -> None:
        parts.setdefault(tap.layer, []).append(_measure(tap))

    for batch in images.split(batch_size) if len(images) else [images]:
        watch(model, prepare_images(model, batch, preprocess), visit, layers=layers)
    return [_join(parts[layer]) for layer in sorted(parts)]


def _distance(weights: Float[Tensor, "*B n m"], distances: Float[Tensor, "n m"]) -> Float[Tensor, "*B"]:
    """Mean over queries of the row sums, as one matrix-vector product: no product the size of the weights is made."""
    flat = distances.to(weights).flatten()
    return weights.reshape(*weights.shape[:-2], -1) @ flat / len(distances)


def _measure(tap: Tap) -> Heads:
    """A layer's numbers, summed over blocks of query rows."""
    prefix = tap.layout.prefix
    sums = torch.zeros(4, len(tap.q), tap.heads, device=tap.q.device)
    for rows, weights in tap.stream(start=prefix):
        real = 1.0
        if tap.real is not None:  # padding asks for nothing
            real = tap.real[:, rows].to(weights).repeat(len(tap.q) // tap.windows, 1)[:, None]
            weights = weights * real[..., None]
        near = tap.layout.distances(slice(rows.start - prefix, rows.stop - prefix))
        spread = -weights * weights.clamp_min(1e-30).log()
        towards, within = weights[..., prefix:], spread[..., prefix:].sum(-1)
        share = towards.sum(-1)
        seen = torch.where(share > 0, within / share + share.log(), -torch.inf).exp()
        sums[0] += _distance(towards, near) * len(near)
        sums[1:] += torch.stack([spread.sum(-1).sum(-1), seen.sum(-1), (real - share).sum(-1)])
    patches = (tap.tokens - prefix) * tap.windows if tap.real is None else int(tap.real.sum())
    distance, entropy, view, away = (sums.unflatten(1, (-1, tap.windows)).sum(2) / patches).cpu()
    return Heads(tap.layer, tap.name, distance, entropy, view / patches, away.clamp(0, 1) * bool(prefix))


def _join(parts: list[Heads]) -> Heads:
    columns = (torch.cat([getattr(part, name) for part in parts]) for name in ("distance", "entropy", "view", "prefix"))
    return Heads(parts[0].layer, parts[0].name, *columns)
