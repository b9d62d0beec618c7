"""The filters of the patch embedding: their' principal components (the paper's figure 7, left), and shifted lines."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import DoesNotApply
from vitrail.inspection.pca import Components, components
from vitrail.models.backbone import Backbone

PAPER = 28
"""Components the paper shows."""


@dataclass(frozen=True, eq=False)
class Lines:
    """Cosines between pictures of one line and the same line shifted: cos[i, j] of the shifts i and j."""

    raw: Float[Tensor, "p p"]
    """Of the pixels: lines that do not touch share nothing."""
    embedded: Float[Tensor, "p p"]
    """Of what the embedding makes of them."""

    def between(self, shift: int = 1) -> tuple[float, float]:
        """Mean absolute cosine of lines `shift` pixels apart: (raw, embedded)."""
        return tuple(float(cosines.diagonal(shift).abs().mean()) for cosines in (self.raw, self.embedded))  # pyrefly: ignore[bad-return]


def embedding_filters(model: Backbone) -> Float[Tensor, "D C p q"]:
    """The filters that meet the pixels first: E of a ViT as D patches, or the first convolution of another family."""
    for parameter in model.parameters():
        if parameter.ndim == 4 and parameter.shape[1] == model.config.channels and max(parameter.shape[2:]) > 1:
            return parameter.detach().float().cpu()
    raise DoesNotApply("this model has no filters over pixels")


def filter_components(weight: Float[Tensor, "D C p q"], count: int = PAPER) -> Components:
    """The first principal components of the filters; `scores` are the components as patches, k C p q."""
    found = components(weight.flatten(1), count)
    return Components(found.directions, found.directions.unflatten(1, weight.shape[1:]), found.explained)


def shifted_lines(weight: Float[Tensor, "D C p q"], *, upright: bool = True) -> Lines:
    """A line one pixel wide in a dark patch, at every place it can be, as pixels and as E makes of it (without bias).

    The pixels of two places are orthogonal, however near the lines are: a patch as a raw vector knows no neighbourhood.
    Training shows as cosines that fall with the shift.
    """
    side = weight.shape[3] if upright else weight.shape[2]
    pictures = torch.zeros(side, *weight.shape[1:])
    for place in range(side):
        pictures[(place, ..., slice(None), place) if upright else (place, ..., place, slice(None))] = 1
    raw = pictures.flatten(1)
    return Lines(_cosines(raw), _cosines(raw @ weight.flatten(1).T))


def _cosines(rows: Float[Tensor, "p D"]) -> Float[Tensor, "p p"]:
    unit = nn.functional.normalize(rows.double(), dim=1)
    return (unit @ unit.T).clamp(-1, 1).float()
