"""Contrastive learning as in MoCo v3 (arXiv 2104.02057): two views of an image find each other."""

import copy
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.config import ABOVE_ZERO, PROBABILITY, check_ranges
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.objectives.objective import OBJECTIVES, Learner, Loss, Pretraining, Task, draw, unwrap
from vitrail.objectives.views import ViewSettings, draws_of, view


@OBJECTIVES.register("contrast")
@dataclass(frozen=True, kw_only=True)
class Contrast(Pretraining):
    """InfoNCE between a learner with projector and predictor, and a teacher that follows it slowly. The patch embedding
    stays as it was drawn (section 4.1). Negatives are the other images of the micro-batch.
    """

    family: ClassVar[str] = "contrast"
    least_batch: ClassVar[int] = 2  # one image has no negatives: its loss is 0
    temperature: float = 0.2
    momentum: float = 0.99
    """The teacher's momentum; it rises to 1 as a half cosine."""
    hidden: int = 4096
    width: int = 256
    """Width of the vectors that are compared."""
    crop: float = 0.08
    """Smallest share of the area in a view."""
    flip: bool = True
    colour: float = 0.8
    """Probability of the jitter of brightness, contrast, saturation and hue (0.4, 0.4, 0.2, 0.1)."""
    grey: float = 0.2
    """Probability of a view without colour."""
    blur: tuple[float, float] = (1.0, 0.1)
    """Probability of a blur in the first and in the second view; its deviation is 0.1 to 2 pixels of 224."""
    solarise: tuple[float, float] = (0.0, 0.2)
    """Probability of solarisation in the first and in the second view."""

    def __post_init__(self) -> None:
        names = ("colour", "grey", "blur", "solarise", "momentum", "crop")
        check_ranges(self, temperature=ABOVE_ZERO, **dict.fromkeys(names, PROBABILITY))
        check_ranges(self, crop=ABOVE_ZERO)

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> "Contrasting":
        return Contrasting(backbone, self.hidden, self.width, generator, task or _shapes(backbone.config))

    @torch.no_grad()
    def after_step(self, learner: Any, progress: float) -> None:
        keep = 1 - (1 - self.momentum) * (1 + math.cos(math.pi * progress)) / 2
        for slow, fast in ((learner.teacher, learner.backbone), (learner.teacher_projector, learner.projector)):
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - keep)

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        views = self.views(batch, unwrap(model).task, generator)
        answers, keys = model(torch.cat(views))
        q, k = answers.float().chunk(2), keys.float().chunk(2)
        own = torch.arange(len(batch), device=q[0].device)
        logits = [one @ other.T / self.temperature for one, other in ((q[0], k[1]), (q[1], k[0]))]
        value = torch.stack([F.cross_entropy(each, own) for each in logits]).sum() * self.temperature
        right = torch.stack([(each.argmax(1) == own).float().mean() for each in logits]).mean()
        return Loss(value, {"loss": value.detach(), "accuracy": right})

    def views(
        self, batch: Batch, task: Task, generator: torch.Generator | None
    ) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
        """Two views of every image, keyed by (seed, epoch, sample) where the batch has those, else by the generator."""
        draws = draws_of(batch, task.seed, generator)
        settings = [
            ViewSettings(self.crop, self.flip, self.colour, self.grey, *rest)
            for rest in zip(self.blur, self.solarise, strict=True)
        ]
        first, second = (
            view(batch.images, one, lambda name, number=number: draws(f"view{number}.{name}"), task.preprocess)
            for number, one in enumerate(settings)
        )
        return first, second


class Contrasting(Learner):
    """Backbone, projector and predictor; and the slow copies of the first two."""

    def __init__(self, backbone: Any, hidden: int, width: int, generator: torch.Generator | None, task: Task) -> None:
        super().__init__(backbone)
        self.task = task
        config = backbone.config
        if not config.read_width:
            raise ConfigError(f"contrastive learning of a {config.family}", allowed="a plain ViT")
        self.projector = mlp((config.read_width, hidden, hidden, width))
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


def _shapes(config: Any) -> Task:
    """The task of a learner that is only counted: any normalisation of as many channels."""
    half = (0.5,) * config.channels
    return Task(preprocess=Preprocess(size=config.image, mean=half, std=half))


def mlp(widths: Sequence[int]) -> nn.Sequential:
    """Linear maps with batch norm behind each and ReLU between; the last norm has no scale of its own."""
    layers: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        last = index == len(widths) - 2
        layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs, affine=not last)]
        layers += [] if last else [nn.ReLU()]
    return nn.Sequential(*layers)
