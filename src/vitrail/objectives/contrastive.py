"""Contrastive learning as in MoCo v3 (arXiv 2104.02057): two views of an image find each other."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.objectives import Learner, Loss, Objective, Task, draw


@dataclass(frozen=True, kw_only=True)
class Contrast(Objective):
    """InfoNCE between a learner with projector and predictor, and a teacher that follows it slowly. The patch embedding
    stays as it was drawn (section 4.1). Negatives are the other images of the micro-batch.
    """

    labelled: ClassVar[bool] = False
    family: Literal["contrast"] = "contrast"
    temperature: float = 0.2
    momentum: float = 0.99
    """Of the teacher, rising to 1 as a half cosine."""
    hidden: int = 4096
    width: int = 256
    """Of the vectors that are compared."""
    crop: float = 0.2
    """Smallest share of the area in a view."""
    flip: bool = True
    jitter: float = 0.4
    """Of each view's brightness and contrast."""

    def __post_init__(self) -> None:
        if self.temperature <= 0 or not 0 <= self.momentum <= 1 or not 0 < self.crop <= 1:
            raise ConfigError(
                f"temperature = {self.temperature}, momentum = {self.momentum}, crop = {self.crop}",
                allowed="temperature above 0, momentum 0 … 1, crop a share of the area",
            )

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> "Contrasting":
        return Contrasting(backbone, self.hidden, self.width, generator)

    def kept(self, learner: Any) -> nn.Module:
        return learner.backbone

    @torch.no_grad()
    def after_step(self, learner: Any, progress: float) -> None:
        keep = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        for slow, fast in ((learner.teacher, learner.backbone), (learner.teacher_projector, learner.projector)):
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - keep)

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        views = [view(batch.images, self.crop, self.flip, self.jitter, generator) for _ in range(2)]
        answers, keys = model(torch.cat(views))
        q, k = answers.float().chunk(2), keys.float().chunk(2)
        own = torch.arange(len(batch), device=q[0].device)
        logits = [one @ other.T / self.temperature for one, other in ((q[0], k[1]), (q[1], k[0]))]
        value = torch.stack([F.cross_entropy(each, own) for each in logits]).sum() * self.temperature
        right = torch.stack([(each.argmax(1) == own).float().mean() for each in logits]).mean()
        return Loss(value, {"loss": value.detach(), "accuracy": right})


class Contrasting(Learner):
    """Backbone, projector and predictor; and the slow copies of the first two."""

    def __init__(self, backbone: Any, hidden: int, width: int, generator: torch.Generator | None) -> None:
        super().__init__(backbone)
        pooled = _pooled_width(backbone)
        self.projector = mlp((pooled, hidden, hidden, width))
        self.predictor = mlp((width, hidden, width))
        draw(self.projector, generator)
        draw(self.predictor, generator)
        if hasattr(backbone, "patch_embed"):
            backbone.patch_embed.requires_grad_(False)
        self.teacher = copy.deepcopy(backbone).requires_grad_(False)
        self.teacher_projector = copy.deepcopy(self.projector).requires_grad_(False)

    def forward(self, views: Float[Tensor, "B C H W"]) -> tuple[Float[Tensor, "B P"], Float[Tensor, "B P"]]:
        """(the learner's predictions, the teacher's projections), each of length 1."""
        fast = self.predictor(self.projector(self.backbone.pool(self.backbone.features(views))))
        with torch.no_grad():
            slow = self.teacher_projector(self.teacher.pool(self.teacher.features(views)))
        return F.normalize(fast.float(), dim=1), F.normalize(slow.float(), dim=1)


def _pooled_width(backbone: Any) -> int:
    config = backbone.config
    if config.family not in ("vit", "deit"):
        raise ConfigError(f"contrastive learning of a {config.family}", allowed="a plain ViT")
    return config.pre_logits or config.pooled_width


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear maps with batch norm behind each and ReLU between; the last norm has no scale of its own."""
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        last = index == len(widths) - 2
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)


def view(
    images: Float[Tensor, "B C H W"], crop: float, flip: bool, jitter: float, generator: torch.Generator | None
) -> Float[Tensor, "B C H W"]:
    """A random crop of each image at the old size, mirrored or not, its brightness and contrast changed."""
    draws = torch.rand(6, len(images), generator=generator).to(images.device)
    side = (crop + (1 - crop) * draws[0]).sqrt()
    x, y = ((2 * draw - 1) * (1 - side) for draw in draws[1:3])
    mirror = torch.where(draws[3] < 0.5, -1.0, 1.0) if flip else torch.ones_like(side)
    zero = torch.zeros_like(side)
    theta = torch.stack([side * mirror, zero, x, zero, side, y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    cropped = F.grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    contrast, brightness = (1 + jitter * (2 * draw - 1) for draw in draws[4:6])
    mean = cropped.mean((1, 2, 3), keepdim=True)
    return (cropped - mean) * contrast.view(-1, 1, 1, 1) + mean * brightness.view(-1, 1, 1, 1)
