"""SimMIM (arXiv 2111.09886): hidden blocks of the image, raw pixels, one linear map, the absolute error."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.config import COUNT, check_ranges
from vitrail.models.checks import Grid
from vitrail.models.mae import patchify
from vitrail.objectives.masked_tokens import MaskedTokens
from vitrail.objectives.objective import OBJECTIVES, Loss, Pretraining, Task, unwrap
from vitrail.objectives.reconstruct import check_ratio


@OBJECTIVES.register("simmim")
@dataclass(frozen=True, kw_only=True)
class SimMIM(Pretraining):
    """The mean absolute error of hidden pixels. The paper's defaults: 60 % in blocks of 2×2 patches of 16 pixels."""

    family: ClassVar[str] = "simmim"
    mask_ratio: float = 0.6
    block: int = 2
    """Patches along a side of what is hidden at once: the paper's 32 pixels at a patch of 16."""

    def __post_init__(self) -> None:
        check_ratio(self.mask_ratio)
        check_ranges(self, block=COUNT)

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> MaskedTokens:
        config = backbone.config
        return MaskedTokens(backbone, config.patch[0] * config.patch[1] * config.channels, generator)

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        stem = unwrap(model).backbone.patch_embed
        masked = block_mask(len(batch), stem.grid(batch.images), self.mask_ratio, self.block, generator)
        masked = masked.to(batch.images.device)
        error = (model(batch.images, masked).float() - patchify(batch.images, stem.patch)).abs().mean(2)
        value = (error * masked).sum() / masked.sum().clamp(min=1)
        return Loss(value, {"loss": value.detach()})


def block_mask(
    images: int, grid: Grid, ratio: float, block: int, generator: torch.Generator | None
) -> Bool[Tensor, "B n"]:
    """Of each image, ⌈ratio · blocks⌉ blocks of block×block patches, cut at the border; True where hidden."""
    h, w = (math.ceil(side / block) for side in grid)
    hidden = math.ceil(h * w * ratio)
    order = torch.rand(images, h * w, generator=generator).argsort(1)
    blocks = torch.zeros(images, h * w, dtype=torch.bool).scatter(1, order[:, :hidden], True).view(images, h, w)
    whole = blocks.repeat_interleave(block, 1).repeat_interleave(block, 2)
    return whole[:, : grid[0], : grid[1]].flatten(1)
