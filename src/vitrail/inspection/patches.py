"""Features of patches: principal components as colours, nearest neighbours, tokens of high norm."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import prepare_images
from vitrail.inspection.pca import Components, components
from vitrail.models.backbone import Backbone
from vitrail.prediction.forward import answering, place


@dataclass(frozen=True)
class Neighbour:
    """A patch, by image, row and column, and its cosine with the patch that was asked about."""

    image: int
    row: int
    column: int
    cosine: float


@dataclass(frozen=True, eq=False)
class Norms:
    """Length of every patch token, and which are outliers (Darcet et al. 2024: artefacts in smooth areas)."""

    norms: Float[Tensor, "B h w"]
    cutoff: float
    high: Bool[Tensor, "B h w"]

    @property
    def share(self) -> float:
        return float(self.high.double().mean())


def patch_features(
    model: Backbone,
    images: Shaped[Tensor, "B C H W"],
    *,
    preprocess: Preprocess | None = None,
    batch_size: int = 16,
) -> Float[Tensor, "B h w D"]:
    """The features of every patch after the last norm, laid out as the image, on the CPU. Any family."""
    found = []
    for batch in images.split(batch_size) if len(images) else [images]:
        pixels = prepare_images(model, batch, preprocess)
        with answering(model, place(model), torch.float32):
            features = model.features(pixels)
        found.append(features.patches.unflatten(1, features.grid).float().cpu())
    return torch.cat(found)


def patch_components(features: Float[Tensor, "B h w D"], count: int = 3) -> Components:
    """Principal components over all patches of all images, `scores` B h w k: three make a picture in colours."""
    found = components(features.flatten(0, 2), count)
    return Components(found.directions, found.scores.unflatten(0, features.shape[:3]), found.explained)


def nearest_patches(
    features: Float[Tensor, "B h w D"], image: int, row: int, column: int, *, count: int = 8
) -> list[Neighbour]:
    """The `count` patches of all images most like the one named, by cosine, itself left out; the nearest first."""
    places = features.shape[:3]
    for what, index, size in zip(("image", "row", "column"), (image, row, column), places, strict=True):
        if not -size <= index < size:
            raise ConfigError(f"{what} {index} of {size}", allowed=f"0 to {size - 1}")
    unit = nn.functional.normalize(features.flatten(0, 2), dim=1)
    own = ((image % places[0]) * places[1] + row % places[1]) * places[2] + column % places[2]
    cosines = unit @ unit[own]
    cosines[own] = -torch.inf
    best = cosines.topk(min(count, len(cosines) - 1))
    numbers = (torch.unravel_index(best.indices, places), best.values)
    rows = zip(*(index.tolist() for index in numbers[0]), numbers[1].tolist(), strict=True)
    return [Neighbour(*numbers) for numbers in rows]


def high_norms(features: Float[Tensor, "B h w D"], *, spread: float = 6.0) -> Norms:
    """Norms of the tokens, and those above median + `spread` · 1.4826 · MAD: for a normal distribution, one in 10⁹."""
    norms = features.norm(dim=-1)
    median = norms.median()
    deviation = 1.4826 * (norms - median).abs().median()
    # a hundredth of the median at least: equal tokens have no outliers
    cutoff = float(median + spread * torch.maximum(deviation, 0.01 * median))
    return Norms(norms, cutoff, norms > cutoff)
