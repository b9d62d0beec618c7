"""MAE's linear probe (arXiv 2111.06377, appendix A.1): a batch norm without weights of its own, then one linear map."""

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.objectives.classify import Classify
from vitrail.objectives.objective import OBJECTIVES, Learner, Loss, Supervised, Task


@OBJECTIVES.register("probe")
@dataclass(frozen=True, kw_only=True)
class Probe(Supervised):
    """Cross-entropy of a linear map on frozen features, each brought to mean 0 and variance 1 by running statistics.

    The result is the backbone with an ordinary head: the normalisation is folded into its weights.
    """

    family: ClassVar[str] = "probe"
    sees_micro_batch: ClassVar[bool] = True  # its batch norm
    label_smoothing: float = 0.0

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> "Probing":
        return Probing(backbone, generator)

    def model_of(self, learner: Any) -> nn.Module:
        return learner.fold()

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        return Classify(label_smoothing=self.label_smoothing).loss_of(model(batch.images).float(), batch.targets)


class Probing(Learner):
    """A frozen backbone, always as it evaluates, and the map that learns."""

    def __init__(self, backbone: Any, generator: torch.Generator | None) -> None:
        super().__init__(backbone.requires_grad_(False))
        if not isinstance(getattr(backbone, "head", None), nn.Linear):
            raise ConfigError(f"a probe of a {backbone.config.family}", allowed="models whose head is one linear map")
        inputs, outputs = backbone.head.in_features, backbone.head.out_features
        self.norm = nn.BatchNorm1d(inputs, eps=1e-6, affine=False)
        self.head = nn.Linear(inputs, outputs)
        if generator is not None:
            with torch.no_grad():
                self.head.weight.normal_(std=0.01, generator=generator)
                self.head.bias.zero_()

    def train(self, mode: bool = True) -> "Probing":
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        with torch.no_grad():
            pooled = self.backbone.pool(self.backbone.features(images))
        return self.head(self.norm(pooled.float()))

    @torch.no_grad()
    def fold(self) -> nn.Module:
        """The backbone with head W/σ and b − W·μ/σ: what this answers once the statistics stand."""
        model = copy.deepcopy(self.backbone).requires_grad_(True)
        assert self.norm.running_mean is not None and self.norm.running_var is not None
        weight = self.head.weight / (self.norm.running_var + self.norm.eps).sqrt()
        model.head.weight.copy_(weight)
        model.head.bias.copy_(self.head.bias - weight @ self.norm.running_mean)
        return model.eval()
