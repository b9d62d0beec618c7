"""Centred kernel alignment: how alike the layers of models see the same images (Kornblith et al. 2019)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.inspection.attention_hooks import keep_until_end, prepare_images
from vitrail.models.backbone import Backbone
from vitrail.prediction.forward import answering, place


@dataclass(frozen=True, eq=False)
class Alignment:
    """CKA of every layer of one model (rows) with every layer of another, or the same."""

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: Float[Tensor, "m n"]


def cka(
    model: Backbone,
    images: Shaped[Tensor, "I C H W"],
    other: Backbone | None = None,
    *,
    other_images: Shaped[Tensor, "I C H W"] | None = None,
    batch_size: int = 32,
) -> Alignment:
    """Linear CKA between the stages of `model` and of `other` (default: itself) over the same images.

    As in Raghu et al. 2021: all tokens of an image are one vector, and the unbiased HSIC is averaged over batches, so
    memory does not grow with the images. `other_images` are the images as the other model reads them. At least four are
    needed.
    """
    theirs = images if other_images is None else other_images
    if len(images) < 4 or len(theirs) != len(images):
        raise ConfigError(f"CKA over {len(images)} and {len(theirs)} images", allowed="4 or more, the same for both")
    total: Tensor | float = 0.0
    rows = columns = ()
    for mine, their in zip(images.split(batch_size), theirs.split(batch_size), strict=True):
        if len(mine) < 4:  # the unbiased estimate needs four; the few images left over are not worth a batch
            continue
        rows, left = grams(model, mine)
        columns, right = (rows, left) if other is None else grams(other, their)
        total = total + torch.stack([_hsic(left, right), *_scales(left, right)])
    assert isinstance(total, Tensor)
    cross, own, others = total
    return Alignment(rows, columns, (cross / (own * others).clamp_min(1e-30).sqrt()).float())


def grams(model: Backbone, images: Shaped[Tensor, "I C H W"]) -> tuple[tuple[str, ...], Float[Tensor, "m I I"]]:
    """Names of the model's stages but the head, and each one's inner products between images, in float64."""
    found: dict[str, Tensor] = {}

    def keep(stage: str, left: Tensor) -> None:
        rows = left.flatten(1).double()
        found[stage] = rows @ rows.T

    modules = [
        (name, next(part for part in parts if isinstance(part, nn.Module))) for name, parts in model.stages()[:-1]
    ]
    hooks = [
        module.register_forward_hook(lambda _, __, left, stage=name: keep(stage, left)) for name, module in modules
    ]
    pixels = prepare_images(model, images)
    with keep_until_end(hooks), answering(model, place(model), torch.float32):
        model.features(pixels)
    return tuple(found), torch.stack(list(found.values())).cpu()


def _hsic(left: Float[Tensor, "m I I"], right: Float[Tensor, "n I I"]) -> Float[Tensor, "m n"]:
    """The unbiased HSIC of every pair (Song et al. 2012, equation 5): diagonals left out."""
    left, right = (gram - torch.diag_embed(gram.diagonal(dim1=1, dim2=2)) for gram in (left, right))
    images = left.shape[-1]
    sums = left.sum((1, 2)), right.sum((1, 2))
    products = torch.einsum("mij,nij->mn", left, right)
    both = torch.einsum("mi,ni->mn", left.sum(2), right.sum(2))
    constant = sums[0][:, None] * sums[1] / ((images - 1) * (images - 2))
    return (products + constant - 2 * both / (images - 2)) / (images * (images - 3))


def _scales(left: Float[Tensor, "m I I"], right: Float[Tensor, "n I I"]) -> tuple[Tensor, Tensor]:
    """HSIC of each layer with itself, laid out for every pair."""
    own, others = (_hsic(gram, gram).diagonal() for gram in (left, right))
    return own[:, None].expand(-1, len(others)), others.expand(len(own), -1)


def linear_cka(x: Float[Tensor, "I D"], y: Float[Tensor, "I E"]) -> float:
    """Linear CKA of two representations of the same images: the biased, original form of Kornblith et al."""
    x, y = ((part - part.mean(0)).double() for part in (x, y))
    return float((y.T @ x).norm() ** 2 / ((x.T @ x).norm() * (y.T @ y).norm()).clamp_min(1e-30))
