"""Distillation as in DeiT (arXiv 2012.12877): labels, and what a teacher of any family says of the same image."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.batches.loader import Batch
from vitrail.config import ABOVE_ZERO, PROBABILITY, SHARE, check_ranges
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.objectives.classify import Classify
from vitrail.objectives.objective import OBJECTIVES, Learner, Loss, Supervised, Task
from vitrail.weights import bundle


@OBJECTIVES.register("distill")
@dataclass(frozen=True, kw_only=True)
class Distill(Supervised):
    """Cross-entropy to the labels and to the teacher. A student with a distillation token (family `deit`) answers the
    teacher with that token's head; any other with its only one.
    """

    family: ClassVar[str] = "distill"
    teacher: str = ""
    """A run folder, a bundle or a published file."""
    kind: Literal["hard", "soft"] = "hard"
    """`hard`: the teacher's first choice is a label (eq. 3). `soft`: its probabilities at τ (eq. 2)."""
    weight: float = 0.5
    """Weight of the teacher's term. The paper: 1/2 for hard, λ = 0.1 for soft distillation."""
    temperature: float = 3.0
    """τ of soft distillation."""
    label_smoothing: float = 0.0
    """Smooths the true labels alone: smoothing the teacher's does not help (Table 3)."""

    def __post_init__(self) -> None:
        check_ranges(self, weight=PROBABILITY, temperature=ABOVE_ZERO, label_smoothing=SHARE)

    def build(self, backbone: Any, generator: torch.Generator | None = None, task: Task | None = None) -> "Distilling":
        if not self.teacher:
            raise ConfigError("distillation without a teacher", next_step="name a run or a file as `objective.teacher`")
        if generator is None:  # only the shapes are asked for
            record = bundle.read_record(_existing(self.teacher))
            return Distilling(backbone, Teacher(zoo.skeleton(record.config), record.preprocess, record.preprocess))
        task = task or Task()
        return Distilling(backbone, load_teacher(self.teacher, task, backbone.config.classes))

    def model_of(self, learner: Any) -> nn.Module:
        return learner.backbone

    def __call__(self, model: nn.Module, batch: Batch, generator: torch.Generator | None = None) -> Loss:
        label, follower, teacher = (logits.float() for logits in model(batch.images))
        base = Classify(label_smoothing=self.label_smoothing).loss_of(label, batch.targets)
        value = (1 - self.weight) * base.value + self.weight * self.teaching(follower, teacher)
        agreement = (follower.argmax(1) == teacher.argmax(1)).float().mean()
        report = {"loss": value.detach(), "accuracy": base.report["accuracy"], "agreement": agreement}
        return Loss(value, report)

    def teaching(self, student: Float[Tensor, "B K"], teacher: Float[Tensor, "B K"]) -> Float[Tensor, ""]:
        """The teacher's term: its first choice as a label, or τ² · KL(teacher ‖ student) at temperature τ."""
        if self.kind == "hard":
            return F.cross_entropy(student, teacher.argmax(1))
        t = self.temperature
        logs = [F.log_softmax(logits / t, dim=1) for logits in (student, teacher)]
        return t * t * F.kl_div(logs[0], logs[1], reduction="batchmean", log_target=True)


class Teacher(nn.Module):
    """A frozen model that reads the student's images: normalised and resized again where its own preprocessing differs."""

    def __init__(self, model: Any, own: Preprocess, students: Preprocess, order: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.model = model.eval().requires_grad_(False)
        self.own, self.students, self.order = own, students, order

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        self.model.eval()
        if (self.own.mean, self.own.std) != (self.students.mean, self.students.std):
            images = self.own.from_pixels(self.students.to_pixels(images))
        if tuple(images.shape[2:]) != self.own.size:
            images = F.interpolate(images, self.own.size, mode="bicubic", antialias=True)
        logits = self.model(images)
        return logits[:, list(self.order)] if self.order else logits


class Distilling(Learner):
    """A student and its teacher. The teacher is not part of its state: it comes from its own file each time."""

    def __init__(self, student: Any, teacher: Teacher) -> None:
        super().__init__(student)
        self._teacher = (teacher,)  # in a tuple: no submodule, so neither saved, averaged nor trained
        self.notes = (f"teacher: {teacher.model.config.family}, {teacher.own.size[0]}×{teacher.own.size[1]} pixels",)

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor, Tensor]:
        """(logits for the labels, logits for the teacher, the teacher's logits)."""
        student = self.backbone
        teacher = self._teacher[0].to(images.device)(images)
        return *student.student_logits(images), teacher

    def __deepcopy__(self, memo: dict) -> "Distilling":
        return Distilling(copy.deepcopy(self.backbone, memo), self._teacher[0]).train(self.training)


def load_teacher(path: str, task: Task, classes: int) -> Teacher:
    """The teacher at `path`, its classes in the student's order by name. ConfigError where they are others."""
    model = bundle.load(_existing(path))
    record = model.record
    if record.preprocess.channels != task.preprocess.channels:
        raise ConfigError(
            f"the teacher {path} reads {record.preprocess.channels} channels, the student {task.preprocess.channels}",
            next_step="give both the same `preprocess.mean` and `preprocess.std`",
        )
    own = replace(record.preprocess, size=record.config.image)
    if not record.classes or not task.classes:
        if record.config.classes != classes:
            raise ConfigError(f"the teacher {path} has {record.config.classes} classes, the data {classes}")
        return Teacher(model, own, task.preprocess)
    missing = [name for name in task.classes if name not in record.classes]
    if missing:
        raise ConfigError(
            f"the teacher {path} lacks {len(missing)} of the {len(task.classes)} classes, such as {missing[0]!r}",
            allowed=", ".join(record.classes[:8]),
            next_step="use a teacher that was trained on these classes",
        )
    order = tuple(record.classes.index(name) for name in task.classes)
    return Teacher(model, own, task.preprocess, () if order == tuple(range(len(record.classes))) else order)


def _existing(path: str) -> str:
    """The path of a teacher that is there. Raises ConfigError."""
    if not Path(path).exists():
        raise ConfigError(f"there is no teacher at {path}", next_step="name a run folder, a bundle or a weights file")
    return path
