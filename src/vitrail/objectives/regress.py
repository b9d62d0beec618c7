"""Regression: a number for each image, learned by least squares."""

import copy
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.images.samples import Source
from vitrail.models import cost
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.objective import OBJECTIVES, Loss, Supervised


@OBJECTIVES.register("regress")
@dataclass(frozen=True, kw_only=True)
class Regress(Supervised):
    """Squared error, or Huber's, of z = (y - mean) / std: so the rates of classification fit any unit.

    The model that is saved answers in the unit of the labels: `mean` and `std` are folded into its head.
    """

    family: ClassVar[str] = "regress"
    loss: Literal["mse", "huber"] = "mse"
    """`huber` is linear beyond one deviation, so that a few wrong labels weigh less."""
    mean: float = 0.0
    """Mean of the training labels; set from the data."""
    std: float = 1.0

    def for_labels(self, source: Source) -> "Regress":
        if not source.numeric:
            raise ConfigError(
                "the objective 'regress' reads a number for each image; these images have classes",
                allowed="objective=Classify()",
                next_step="name the column of the list value, or train a classifier",
            )
        return replace(self, mean=float(source.labels.mean()), std=float(source.labels.std()) or 1.0)

    def flops(self, config: ModelConfig) -> float:
        """By the papers' rule: 6 × MACs."""
        return float(cost.train_flops(config))

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        answers, wanted = model(batch.images).float(), self.standardise(batch.targets.float().view(-1, 1))
        each = F.mse_loss(answers, wanted) if self.loss == "mse" else F.huber_loss(answers, wanted)
        error = (answers.detach() - wanted).abs().mean() * self.std
        return Loss(each, {"loss": each.detach(), "mae": error})

    def standardise(self, targets: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """The labels as the model learns them."""
        return (targets - self.mean) / self.std

    def model_of(self, learner: Any) -> Any:
        """A copy whose head answers y = mean + std · z."""
        model = copy.deepcopy(learner)
        with torch.no_grad():
            for layer in model.head.modules():  # a DeiT has two, and answers with their mean
                if isinstance(layer, nn.Linear):
                    layer.weight.mul_(self.std)
                    layer.bias.mul_(self.std).add_(self.mean)
        return model
