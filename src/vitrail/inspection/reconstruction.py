"""The hidden patches as a masked autoencoder paints them."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import prepare_images
from vitrail.models.backbone import Backbone
from vitrail.prediction.forward import answering, place, preprocess_of


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Pictures of 8 bits, all of one size."""

    masked: UInt8[Tensor, "B C H W"]
    """The visible patches; grey where the patch was hidden."""
    painted: UInt8[Tensor, "B C H W"]
    """The visible patches, and the guess for the rest."""
    error: Float[Tensor, "B"]
    """Mean squared error over the hidden patches, of pixels from 0 to 1."""
    lent: bool
    """Whether the true image lends each patch its mean and contrast."""


def reconstruct(
    model: Backbone,
    images: Shaped[Tensor, "B C H W"],
    *,
    ratio: float = 0.75,
    seed: int = 0,
    preprocess: Preprocess | None = None,
) -> Reconstruction:
    """Hides `ratio` of the patches of each image and lets the model paint them, back in pixels.

    A decoder that predicts normalised patches is given the true patches' mean and deviation, as in the paper's figures.
    The mask depends on `seed` and the image's number alone. Raises DoesNotApply for anything but a masked autoencoder.
    """
    recipe = preprocess_of(model, preprocess)
    pixels = prepare_images(model, images, recipe)
    patches = math.prod(model.config.grid_at((pixels.shape[2], pixels.shape[3])))
    noise = [torch.rand(patches, generator=torch.Generator().manual_seed(seed + k)) for k in range(len(pixels))]
    with answering(model, place(model), torch.float32):
        found = model.paint(pixels, torch.stack(noise).to(pixels.device), ratio)
    seen, painted = recipe.denormalise(pixels.float()), recipe.denormalise(found.images.float())
    squares = ((painted.float() - seen.float()) / 255).square()
    error = (squares * ~found.visible).sum((1, 2, 3)) / (~found.visible).sum((1, 2, 3))
    masked = torch.where(found.visible, seen, 128).to(torch.uint8)
    return Reconstruction(masked.cpu(), painted.cpu(), error.cpu(), found.lent)
