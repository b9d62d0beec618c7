"""Supervised classification: softmax or sigmoid cross-entropy, with label smoothing and soft targets."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.config import SHARE, check_ranges
from vitrail.errors import ConfigError
from vitrail.images.samples import Source
from vitrail.models import cost
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.objective import OBJECTIVES, Loss, Objective, Supervised
from vitrail.objectives.regress import Regress


@OBJECTIVES.register("classify")
@dataclass(frozen=True, kw_only=True)
class Classify(Supervised):
    """Cross-entropy against class targets.

    `softmax` is the ViT paper's loss. `sigmoid` asks one yes-or-no question per class and sums over classes: big_vision and
    DeiT III pre-train with it, and images with several labels need it. `auto` is softmax for one label an image, sigmoid for
    several. Soft targets (mixup, cutmix, pseudo-labels) are read as they are.
    """

    family: ClassVar[str] = "classify"
    loss: Literal["auto", "softmax", "sigmoid"] = "auto"
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()
    """Weight of an image's loss by its class, mean 1 over the images; `balance = "loss"` of a run sets them. An image with
    several labels has their mean, one without a label 1."""

    def __post_init__(self) -> None:
        check_ranges(self, label_smoothing=SHARE)

    def for_labels(self, source: Source) -> Objective:
        if source.numeric:
            return Regress().for_labels(source)
        several = source.multi_label
        if several and self.loss == "softmax":
            raise ConfigError(
                "the softmax loss for images with several labels: its probabilities sum to one",
                allowed="loss = 'sigmoid', or 'auto'",
            )
        return replace(self, loss="sigmoid" if several else "softmax") if self.loss == "auto" else self

    def flops(self, config: ModelConfig) -> float:
        """By the papers' rule: 6 × MACs."""
        return float(cost.train_flops(config))

    def with_class_weights(self, weights: Sequence[float]) -> "Classify":
        return replace(self, class_weights=tuple(weights))

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        return self.loss_of(model(batch.images).float(), batch.targets)

    def loss_of(self, logits: Float[Tensor, "B K"], targets: Int[Tensor, "B"] | Float[Tensor, "B K"]) -> Loss:
        """The loss of these answers; `auto` is softmax here."""
        plain = soft_targets(targets, logits.shape[1], 0.0)
        targets = soft_targets(targets, logits.shape[1], self.label_smoothing)
        if self.loss == "sigmoid":
            each = F.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(1)
        else:
            each = -(targets * F.log_softmax(logits, dim=1)).sum(1)
        if self.class_weights:  # of a mixed image in the shares of its classes
            labels = plain.sum(1)
            weights = plain @ plain.new_tensor(self.class_weights) + (1 - labels).clamp(min=0)
            each = each * weights / labels.clamp(min=1)
        value = each.mean()
        # the surest answer is right if it is a label: of a mixed image the larger share, of several labels any
        right = targets.gather(1, logits.argmax(1, keepdim=True)) == targets.amax(1, keepdim=True)
        return Loss(value, {"loss": value.detach(), "accuracy": right.float().mean()})


def soft_targets(
    targets: Int[Tensor, "B"] | Float[Tensor, "B K"], classes: int, smoothing: float
) -> Float[Tensor, "B K"]:
    """One-hot where they are indices, then (1 - s)·t + s/K (Szegedy 2016, eq. 3)."""
    soft = F.one_hot(targets.long(), classes).float() if targets.ndim == 1 else targets.float()
    return soft * (1 - smoothing) + smoothing / classes if smoothing else soft


def balanced_weights(counts: Int64[np.ndarray, "K"]) -> list[float]:
    """N/(K·n_k) for each class of n_k images: all classes weigh the same, and the mean over all images is 1."""
    return (counts.sum() / ((counts > 0).sum() * np.maximum(counts, 1))).tolist()
