"""What a masked autoencoder paints where it saw nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from vitrail.errors import DoesNotApply
from vitrail.images.preprocess import Preprocess
from vitrail.inspection.attention_hooks import family, prepared
from vitrail.models.backbone import Backbone
from vitrail.models.mae import MAE, from_target, masking, patchify, unpatchify
from vitrail.prediction.forward import answering, place, preprocess_of


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Pictures of 8 bits, all of one size."""

    masked: UInt8[Tensor, "B C H W"]
    """What the model saw; grey where it saw nothing."""
    painted: UInt8[Tensor, "B C H W"]
    """What it saw, and its guess for the rest."""
    error: Float[Tensor, "B"]
    """Mean squared error over the hidden patches, of pixels from 0 to 1."""


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
    if not isinstance(model, MAE):
        raise DoesNotApply(f"a {family(model)} paints nothing: only a masked autoencoder with its decoder does")
    if model.config.target == "unknown":
        raise DoesNotApply("these weights do not say whether their decoder predicts pixels or normalised pixels")
    recipe = preprocess_of(model, preprocess)
    pixels = prepared(model, images, recipe)
    grid = model.encoder.patch_embed.grid(pixels)
    noise = torch.stack(
        [torch.rand(grid[0] * grid[1], generator=torch.Generator().manual_seed(seed + k)) for k in range(len(pixels))]
    )
    mask = masking(noise.to(pixels.device), ratio)
    patches = patchify(pixels, model.config.patch)
    with answering(model, place(model), torch.float32):
        guess = from_target(model.predict(pixels, mask), patches, model.config.target)
    hidden = mask.mask[..., None].to(patches)
    painted = unpatchify(patches * (1 - hidden) + guess * hidden, model.config.patch, grid)
    seen = recipe.denormalise(pixels.float())
    shown = unpatchify((1 - hidden).expand_as(patches), model.config.patch, grid).bool()
    painted = recipe.denormalise(painted.float())
    squares = ((painted.float() - seen.float()) / 255).square()
    error = (squares * ~shown).sum((1, 2, 3)) / (~shown).sum((1, 2, 3))
    return Reconstruction(torch.where(shown, seen, 128).to(torch.uint8).cpu(), painted.cpu(), error.cpu())
