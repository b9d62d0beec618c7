"""Supervised classification: softmax or sigmoid cross-entropy, with label smoothing and soft targets."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.objectives.objective import Loss, Objective


@dataclass(frozen=True, kw_only=True)
class Classify(Objective):
    """Cross-entropy against class targets.

    `softmax` is the ViT paper's; `sigmoid` (one yes-or-no question per class, summed over classes) is what big_vision and
    DeiT III pre-train with. Soft targets (mixup, cutmix, several labels) are read as they are.
    """

    family: Literal["classify"] = "classify"
    loss: Literal["softmax", "sigmoid"] = "softmax"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ConfigError(f"label_smoothing = {self.label_smoothing}", allowed="0 ≤ label_smoothing < 1")

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        return self.of(model(batch.images).float(), batch.targets)

    def of(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B"] | Float[Tensor, "B K"]) -> Loss:
        """The loss of these answers."""
        targets = soft_targets(targets, logits.shape[1], self.label_smoothing)
        if self.loss == "softmax":
            value = -(targets * F.log_softmax(logits, dim=1)).sum(1).mean()
        else:
            value = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1).mean()
        # with mixed images the larger share counts as the answer
        right = logits.argmax(1) == targets.argmax(1)
        return Loss(value, {"loss": value.detach(), "accuracy": right.float().mean()})


def soft_targets(
    targets: Int[Tensor, "B"] | Float[Tensor, "B K"], classes: int, smoothing: float
) -> Float[Tensor, "B K"]:
    """One-hot where they are indices, then (1 - s)·t + s/K (Szegedy 2016, eq. 3)."""
    soft = F.one_hot(targets.long(), classes).float() if targets.ndim == 1 else targets.float()
    return soft * (1 - smoothing) + smoothing / classes if smoothing else soft
