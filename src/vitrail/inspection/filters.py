"""The filters of the patch embedding and their principal components (the paper's figure 7, left)."""

from jaxtyping import Float
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.inspection.pca import Components, components
from vitrail.models.backbone import Backbone

PAPER = 28
"""Components the paper shows."""


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
