"""The settings of the studies on labels: ways of pre-training, few labels, self-training. Nothing here imports torch."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from vitrail.errors import ConfigError
from vitrail.study.questions import Cells, Question, check_above_zero, check_share

Method = Literal["none", "supervised", "mae", "masked_patches", "simmim", "contrast"]
METHODS: tuple[Method, ...] = ("none", "supervised", "mae", "masked_patches", "simmim", "contrast")
"""No pre-training and all labels are the floor and the ceiling of the others."""


@dataclass(frozen=True, kw_only=True)
class Pretraining(Cells):
    """Compares ways of pre-training on your images: one small ViT, the same FLOPs, the same readouts, one report."""

    name: ClassVar[str] = "pretraining"
    axes: ClassVar[tuple[str, ...]] = ("seeds", "methods", "shares", "ratios")

    methods: tuple[Method, ...] = METHODS
    epochs: float = 20.0
    """Of supervised training: its FLOPs are the budget of every method."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Parts of that budget, the points of the figure; the table shows the largest."""
    labels: float = 0.05
    """Share of the training labels that fine-tuning may see."""
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """Mask ratios of MAE for the second figure; none leaves it out."""

    def check(self) -> None:
        check_above_zero(self, "epochs", "shares")
        check_share(self, "labels")


@dataclass(frozen=True, kw_only=True)
class FewLabels(Cells):
    """Pre-training on all images, then fine-tuning on a few labels; compared with those labels alone for the same FLOPs."""

    name: ClassVar[str] = "few-labels"

    labels: float = 0.01
    """Share of every class whose labels are known."""
    method: Literal["mae", "masked_patches", "simmim", "contrast"] = "mae"
    """Of pre-training, on all images."""
    epochs: float = 5.0
    """Of pre-training."""
    tuning: int = 400
    """Steps of fine-tuning on the labelled images."""
    optim: Literal["adamw", "muon"] = "adamw"
    """The optimiser of all trainings."""

    def check(self) -> None:
        check_above_zero(self, "epochs", "tuning")
        check_share(self, "labels")


@dataclass(frozen=True, kw_only=True)
class SelfTrain(Question):
    """Noisy Student: a teacher labels images without labels, a noised student learns from all; then it is the teacher."""

    name: ClassVar[str] = "self-train"
    axes: ClassVar[tuple[str, ...]] = ("rounds",)

    teacher: str = ""
    """A run, bundle or weights file that is the first teacher; one is trained on the labelled images where none is named."""
    unlabelled: str = ""
    """Images without labels: a folder, or a named set. None: those of `data` whose labels are not used. Held-out images, and
    copies of them, are left out."""
    labels: float = 1.0
    """Share of every class whose labels are used."""
    rounds: int = 2
    threshold: float = 0.3
    """Least probability of a teacher's answer."""
    per_class: int = 0
    """Labelled images of each class for the student: the surest, or copies where there are fewer. 0: as many as the
    unlabelled images would give to each on average; -1: as they come, unbalanced."""
    soft: bool = True
    """The teacher's probabilities as targets, or its first choice alone."""
    drop_path: float = 0.1
    """Least stochastic depth of students, a part of their noise, with the recipe's augmentation."""
    recipe: str = ""
    """Of teacher and students; chosen by the images where none is named."""
    length: str = ""
    """Of each training, such as "20 epochs", in place of the recipe's."""
    seed: int = 0
    threads: int = 0
    """CPU threads of a training; 0 measures which number is fastest."""

    def check(self) -> None:
        check_above_zero(self, "rounds")
        check_share(self, "labels")
        if not 0 <= self.threshold < 1 or self.per_class < -1:
            raise ConfigError(
                f"threshold = {self.threshold}, per_class = {self.per_class}",
                allowed="0 ≤ threshold < 1; per_class from -1",
            )
        if self.labels == 1 and not self.unlabelled:
            raise ConfigError(
                "no images without labels were named",
                next_step="name a folder as `unlabelled`, or keep labels back with `labels=0.1`",
            )
