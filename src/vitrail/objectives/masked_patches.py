"""Masked patch prediction, the ViT paper's own self-supervision (arXiv 2010.11929, appendix B.1.2), after BERT."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.models.mae import masking, patchify, rows
from vitrail.objectives.masked_tokens import MaskedTokens
from vitrail.objectives.objective import OBJECTIVES, Loss, Pretraining, Task, unwrap
from vitrail.objectives.reconstruct import check_ratio, patch_noise

LEVELS = 8
"""3 bits a channel."""


@OBJECTIVES.register("masked_patches")
@dataclass(frozen=True, kw_only=True)
class MaskedPatches(Pretraining):
    """Half of the patch embeddings are corrupted; their mean colour is to be told. The defaults are the paper's."""

    family: ClassVar[str] = "masked_patches"
    target: Literal["mean-colour", "downsized", "pixels"] = "mean-colour"
    """The mean colour in 3 bits a channel, one of 512 classes; the same of a 4×4 version, 16 predictions; or the whole
    patch by its squared error. The paper found the first two alike and the third a little worse."""
    mask_ratio: float = 0.5
    """Share of the patches that are corrupted."""
    blank: float = 0.8
    """Of those, the share that becomes the mask token …"""
    swapped: float = 0.1
    """… or another patch's embedding; the rest stays as it is."""

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        if min(self.blank, self.swapped) < 0 or self.blank + self.swapped > 1:
            raise ConfigError(
                f"blank = {self.blank}, swapped = {self.swapped}", allowed="two shares, at most 1 together"
            )

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> MaskedTokens:
        learner = MaskedTokens(backbone, self.outputs(backbone.config), generator)
        preprocess = (task or Task()).preprocess
        for name in ("mean", "std"):
            values = torch.tensor(getattr(preprocess, name)[: backbone.config.channels])
            learner.register_buffer(name, values.view(1, -1, 1, 1).expand(1, backbone.config.channels, 1, 1).clone())
        return learner

    def outputs(self, config: Any) -> int:
        if self.target == "pixels":
            return config.patch[0] * config.patch[1] * config.channels
        if config.channels > 4:
            raise ConfigError(f"colour classes of {config.channels} channels", next_step="use target='pixels'")
        return LEVELS**config.channels * (16 if self.target == "downsized" else 1)

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        learner, images = unwrap(model), batch.images
        patch = learner.backbone.config.patch
        noise = patch_noise(images, patch, generator)
        chosen = masking(noise, self.mask_ratio).hidden
        blank, source = corrupt(chosen, noise.shape[1], self.blank, self.swapped, generator)
        answers = rows(model(images, blank, source), chosen).float()
        if self.target == "pixels":
            value = (answers - rows(patchify(images, patch), chosen)).square().mean()
            return Loss(value, {"loss": value.detach()})
        pixels = images * learner.std + learner.mean
        classes = rows(colour_classes(pixels, patch, 4 if self.target == "downsized" else 1), chosen).flatten()
        logits = answers.unflatten(2, (-1, LEVELS ** images.shape[1])).flatten(0, 2)
        value = F.cross_entropy(logits, classes)
        right = (logits.argmax(1) == classes).float().mean()
        return Loss(value, {"loss": value.detach(), "accuracy": right})


def corrupt(
    chosen: Int[Tensor, "B m"], patches: int, blank: float, swapped: float, generator: torch.Generator | None
) -> tuple[Bool[Tensor, "B n"], Int[Tensor, "B n"]]:
    """(which patches become the mask token, whose embedding each place gets, counted through the batch).

    Each chosen patch draws for itself: blank, another patch's (any other of the batch), or its own.
    """
    images, device = len(chosen), chosen.device
    dice = torch.rand(images, patches, generator=generator).to(device)
    total = images * patches
    other = torch.randint(1, max(2, total), (images, patches), generator=generator).to(device)
    own = torch.arange(total, device=device).view(images, patches)
    taken = torch.zeros(images, patches, dtype=torch.bool, device=device).scatter(1, chosen, True)
    swap = taken & (dice >= blank) & (dice < blank + swapped)
    return taken & (dice < blank), torch.where(swap, (own + other) % total, own)


def colour_classes(pixels: Float[Tensor, "B C H W"], patch: tuple[int, int], cells: int) -> Int[Tensor, "B n c"]:
    """Of pixels in [0, 1], the class of each of `cells`² parts of each patch: its mean colour in 3 bits a channel, the
    first channel the highest bits.
    """
    channels = pixels.shape[1]
    tiles = patchify(pixels, patch).unflatten(2, (*patch, channels)).movedim(-1, 2)  # B n C p q
    means = F.adaptive_avg_pool2d(tiles.flatten(0, 2).float(), cells).view(*tiles.shape[:3], cells * cells)
    bins = (means * LEVELS).floor().clamp(0, LEVELS - 1).long()
    weights = LEVELS ** torch.arange(channels - 1, -1, -1, device=pixels.device)
    return (bins * weights[:, None]).sum(2)
