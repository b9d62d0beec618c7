"""Masked autoencoding (MAE, arXiv 2111.06377): hide most of an image, paint it from the rest."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models.mae import MAE, MAEConfig, Masking, masking, pixel_target, visible_patches
from vitrail.objectives.objective import OBJECTIVES, Learner, Loss, Pretraining, Task, unwrap
from vitrail.reports.page import Gallery, Picture, Section
from vitrail.weights import bundle
from vitrail.weights.fit import fit


@OBJECTIVES.register("reconstruct")
@dataclass(frozen=True, kw_only=True)
class Reconstruct(Pretraining):
    """The mean squared error of the hidden patches. The defaults are the paper's; the decoder's too (section 4)."""

    family: ClassVar[str] = "reconstruct"
    mask_ratio: float = 0.75
    """Share of the patches that are hidden: int(N·(1 - ratio)) are left (Figure 5)."""
    target: Literal["normalised", "pixels"] = "normalised"
    """Each patch with its mean and deviation taken out (`norm_pix_loss`), or pixels as the model reads them."""
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)

    def build(
        self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None
    ) -> "Reconstructing":
        weights = task.weights if task else None
        config = self.config(backbone.config)
        visible_patches(config.grid[0] * config.grid[1], self.mask_ratio)
        model = MAE(config)
        if weights is None and generator is not None:
            model.initialise(generator)
        else:
            model.encoder = backbone
        if weights is None or generator is None:
            return Reconstructing(model)
        return Reconstructing(model, load_decoder(model, weights, generator))

    def config(self, encoder: Any) -> MAEConfig:
        """The pair that an encoder of this config becomes a part of."""
        if not encoder.hides_patches:
            raise ConfigError(f"masked autoencoding of a {encoder.family}", allowed="a plain ViT: it drops tokens")
        return MAEConfig(
            encoder=encoder,
            decoder_width=self.decoder_width,
            decoder_depth=self.decoder_depth,
            decoder_heads=self.decoder_heads,
            decoder_mlp_width=4 * self.decoder_width,
            target=self.target,
        )

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        config = unwrap(model).backbone.config
        noise = patch_noise(batch.images, config.patch, generator)
        prediction, pixels = model(batch.images, masking(noise, self.mask_ratio))
        value = (prediction.float() - pixel_target(pixels.float(), self.target)).square().mean()
        return Loss(value, {"loss": value.detach()})

    def show(self, learner: Any, batch: Batch, preprocess: Preprocess, generator: torch.Generator) -> Sequence[Section]:
        """Each image three times: with hidden patches grey, painted by the model, true."""
        seen, painted = pictures(learner.backbone.eval(), batch.images, preprocess, self.mask_ratio, generator)
        shown = [
            Picture(_as_picture(images[at]), word, batch.keys[at] if word == "true" else "")
            for at in range(len(batch))
            for word, images in (("seen", seen), ("painted", painted), ("true", batch.images))
        ]
        note = f"{self.mask_ratio:.0%} of the patches are hidden."
        if self.target == "normalised":
            note += " The model predicts patches without their mean and contrast; those are taken from the true image."
        return [Gallery("Reconstructions of held-out images", shown, note)]


def _as_picture(image: UInt8[Tensor, "C H W"]) -> UInt8[np.ndarray, "H W c"]:
    """One or three channels, as the page shows them."""
    channels = 3 if len(image) >= 3 else 1
    return np.ascontiguousarray(image[:channels].permute(1, 2, 0).numpy())


class Reconstructing(Learner):
    """An MAE as the loop calls it."""

    def __init__(self, model: MAE, notes: tuple[str, ...] = ()) -> None:
        super().__init__(model)
        self.notes = notes

    def forward(
        self, images: Float[Tensor, "B C H W"], masking: Masking
    ) -> tuple[Float[Tensor, "B m P"], Float[Tensor, "B m P"]]:
        return self.backbone.predict_hidden(images, masking)


def check_ratio(ratio: float) -> None:
    if not 0 < ratio < 1:
        raise ConfigError(f"mask_ratio = {ratio}", allowed="0 < mask_ratio < 1", next_step="MAE's own is 0.75")


def patch_noise(
    images: Float[Tensor, "B C H W"], patch: tuple[int, int], generator: torch.Generator | None
) -> Float[Tensor, "B N"]:
    """A number in [0, 1) for each patch: drawn on the CPU, so that it is the same on every device."""
    patches = (images.shape[2] // patch[0]) * (images.shape[3] // patch[1])
    return torch.rand(len(images), patches, generator=generator).to(images.device, non_blocking=True)


def load_decoder(model: MAE, weights: str, generator: torch.Generator) -> tuple[str, ...]:
    """Gives the decoder the weights' own, where they have one, else a new start. WeightsError where it does not fit."""
    model.decoder.initialise(generator)
    found = bundle.read(weights)
    prefix = "decoder."
    theirs = {name.removeprefix(prefix): t for name, t in found.tensors.items() if name.startswith(prefix)}
    if not theirs:
        return ("weights: they have no decoder; a new one starts from random values",)
    fit(model.decoder, theirs, where=f"the decoder of {weights}")
    return (f"weights: the decoder too, {len(theirs)} tensors",)


@torch.no_grad()
def pictures(
    model: MAE, images: UInt8[Tensor, "B C H W"], preprocess: Preprocess, mask_ratio: float, generator: torch.Generator
) -> tuple[UInt8[Tensor, "B C H W"], UInt8[Tensor, "B C H W"]]:
    """(the images with hidden patches grey; with those patches as the model paints them). DoesNotApply without a target."""
    x = preprocess.normalise(images.to(next(model.parameters()).device))
    found = model.paint(x, patch_noise(x, model.config.patch, generator), mask_ratio)
    grey = preprocess.normalise(torch.full_like(images, 128).to(x.device))
    seen, painted = torch.where(found.visible, x, grey), found.images
    return preprocess.denormalise(seen).cpu(), preprocess.denormalise(painted).cpu()
