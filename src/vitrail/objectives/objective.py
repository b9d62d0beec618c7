"""The contract of an objective, which a model is trained and judged by: the one thing that differs between ways of training.

An objective is a frozen dataclass of plain values, named by `family` in the table `OBJECTIVES`. It gives the loss of a batch,
the answers to held-out images and the `Outcome` that those answers make. It knows nothing of devices, DDP, precision or files.

The learner is the backbone itself, or the backbone and what the objective adds to it (`build`).
"""

import abc
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vitrail.batches.batch import Batch
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.models import zoo
from vitrail.models.zoo import ModelConfig
from vitrail.registry import OpenConfig, Registry
from vitrail.reports.page import Section
from vitrail.scores.answers import score_answers
from vitrail.scores.calibration import Calibration, calibrate
from vitrail.scores.classification import index_labels
from vitrail.scores.measured import Measured
from vitrail.scores.multilabel import choose_threshold
from vitrail.scores.outcome import Outcome

Answers = Mapping[str, Tensor]
"""Named tensors with one row for each judged image, in the order of the images."""


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise, a mean over images, and named numbers for the log (detached scalars, means over images)."""

    value: Float[Tensor, ""]
    report: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Task:
    """The facts of a run that an objective may use to build its learner."""

    weights: str | None = None
    """Where the backbone came from: a file may hold more than that."""
    preprocess: Preprocess = field(default_factory=Preprocess)
    """How the images are normalised."""
    classes: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Objective(OpenConfig, abc.ABC):
    """The contract. `Supervised` and `Pretraining` below answer most of it for two kinds of objectives.

    An objective of your own derives from one of these; it is a frozen dataclass with a `family`, and with
    `@OBJECTIVES.register("its family")` above it.
    """

    reads_labels: ClassVar[bool] = True
    """Whether it needs labelled images; the model then has one output for each class."""
    sees_micro_batch: ClassVar[bool] = False
    """Whether the loss depends on how a batch is cut into micro-batches: by random numbers, batch norm or negatives."""
    least_batch: ClassVar[int] = 1
    """The fewest images that must go through the model at once for a loss that teaches."""

    @classmethod
    def member(cls, family: str) -> type["Objective"]:
        return OBJECTIVES[family]

    @abc.abstractmethod
    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        """The loss of a batch of normalised images. All random numbers come from `generator`."""

    @abc.abstractmethod
    def answer(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Named tensors with B rows: all that `judge` needs of each image of a batch. `model` is `model_to_judge(learner)`."""

    @abc.abstractmethod
    def judge(self, answers: Answers, source: Source, classes: Sequence[str], calibration: Calibration) -> Outcome:
        """How good the answers to all images of `source` are. `classes` are those the model was trained on."""

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> nn.Module:
        """The module that trains. `generator` draws new weights; without one, only shapes are needed, to be counted."""
        return backbone

    def model_of(self, learner: Any) -> Any:
        """The model that is saved."""
        return learner

    def model_to_judge(self, learner: Any) -> Any:
        """The model that answers held-out images."""
        return self.model_of(learner)

    def for_labels(self, source: Source) -> "Objective":
        """The objective for these training images: of one label each, of several, or of a number. ConfigError if it cannot
        learn from them.
        """
        if source.labels.ndim == 2 and self.reads_labels:
            raise ConfigError(
                f"the objective {self.family!r} reads one label an image; these images have "
                + ("numbers" if source.numeric else "several"),
                allowed="objective=Classify()",
                next_step="keep one label an image, or train with Classify",
            )
        return self

    def with_class_weights(self, weights: Sequence[float]) -> "Objective":
        """The objective that weighs the loss of each class so. ConfigError if it cannot."""
        raise ConfigError(
            f"the objective {self.family!r} does not weigh classes",
            allowed="balance = 'none'; for one class an image, 'sampling' or objective=Classify()",
        )

    def calibrate(self, answers: Answers, source: Source, classes: Sequence[str]) -> Calibration:
        """The numbers that answers to validation images choose."""
        return Calibration()

    def show(self, learner: Any, batch: Batch, preprocess: Preprocess, generator: torch.Generator) -> Sequence[Section]:
        """Sections of a report that show some held-out images (8-bit) and what the learner makes of them."""
        return ()

    def flops(self, config: ModelConfig) -> float:
        """Operations to train on one image, forward and backward, counted product by product on the meta device."""
        return _count_flops(self, config)

    def steps_for(self, budget: float, config: ModelConfig, batch_size: int) -> int:
        """How many steps of this batch `budget` operations pay for, one at least."""
        return max(1, round(budget / (self.flops(config) * batch_size)))

    def after_step(self, learner: Any, progress: float) -> None:  # most objectives move nothing
        """Moves what has no gradient, such as a teacher that follows; `progress` is the share of the run done."""


@functools.lru_cache(maxsize=256)  # a count takes up to a second
def _count_flops(objective: Objective, config: ModelConfig) -> float:
    with torch.device("meta"):
        learner = objective.build(zoo.skeleton(config)).train()
        images = torch.empty(2, config.channels, *config.image)  # batch norm needs two
        batch = Batch(images, torch.zeros(2, dtype=torch.long), ("", ""))
    with FlopCounterMode(display=False) as counter:
        objective(learner, batch, torch.Generator().manual_seed(0)).value.backward()
    return counter.get_total_flops() / 2


OBJECTIVES = Registry[type[Objective]]("objective")
"""All objectives by `family`: what run.json may name. A plug-in adds its own."""


class Supervised(Objective):
    """Objectives that learn labels: judged by accuracy, average precision of several labels, or error of numbers."""

    def answer(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        return {"logits": model(batch.images).float()}

    def judge(self, answers: Answers, source: Source, classes: Sequence[str], calibration: Calibration) -> Outcome:
        return score_answers(answers["logits"], source, classes, calibration.threshold)

    def calibrate(self, answers: Answers, source: Source, classes: Sequence[str]) -> Calibration:
        if source.numeric:
            return Calibration()
        logits, labels = answers["logits"], index_labels(source.labels, source.classes, classes)
        if labels.ndim == 2:
            return Calibration(threshold=choose_threshold(logits.double().sigmoid().numpy(), labels.numpy() > 0))
        return calibrate(logits, labels)


class Pretraining(Objective):
    """Objectives without labels: judged by their own numbers on held-out images."""

    reads_labels: ClassVar[bool] = False
    sees_micro_batch: ClassVar[bool] = True

    def model_of(self, learner: Any) -> Any:
        return learner.backbone

    def model_to_judge(self, learner: Any) -> Any:
        return learner

    def answer(self, model: nn.Module, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        report = self(model, batch, generator).report
        return {name: value.double().expand(len(batch)) for name, value in report.items()}

    def judge(self, answers: Answers, source: Source, classes: Sequence[str], calibration: Calibration) -> Outcome:
        return Measured(len(source), {name: float(rows.mean()) for name, rows in answers.items()})


class Learner(nn.Module):
    """A backbone and what its objective adds: heads, mask tokens, a decoder, a teacher."""

    notes: tuple[str, ...] = ()
    """Sentences on how it was built."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone

    def stages(self) -> Sequence[tuple[str, Sequence[nn.Module | nn.Parameter]]]:
        """The backbone's, with all else beside its head."""
        *body, (name, head) = self.backbone.stages()
        own = [part for child, part in self.named_children() if child != "backbone"]
        return [*body, (name, [*head, *own, *self.parameters(recurse=False)])]


def draw(module: nn.Module, generator: torch.Generator | None) -> None:
    """N(0, 0.02²) for the weights of linear maps, zero for biases; without a generator all stays as torch made it."""
    if generator is None:
        return
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(std=0.02, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()


def unwrap(model: Any) -> Any:
    """The learner inside what distributes it (`module`) or compiles it (`_orig_mod`)."""
    for name in ("module", "_orig_mod"):
        model = getattr(model, name, model)
    return model
