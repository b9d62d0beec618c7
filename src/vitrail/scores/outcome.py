"""The result of judging a model, whatever it was trained for: one headline, all numbers, the sections of a report.

The training loop, the commands and the studies read this contract alone. Classes (`classification.Scores`), several labels an
image (`multilabel.MultiLabelScores`) and pre-training (`measured.Measured`) are three outcomes.
"""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from vitrail.reports.figures import Panel
from vitrail.reports.page import Facts, Section
from vitrail.reports.tables import Table

ImageOf = Callable[[int], UInt8[np.ndarray, "H W c"]]
"""The picture of a judged image, by its index."""


@dataclass(frozen=True)
class Headline:
    """The one number that a model is known by."""

    name: str
    """In words: "accuracy"."""
    value: float
    interval: tuple[float, float] | None = None
    """95 % interval; None where there is none."""
    percent: bool = True
    """Whether people read it in percent."""
    higher_is_better: bool = True

    def __str__(self) -> str:
        return f"{self.value:.2%}" if self.percent else f"{self.value:.4g}"

    def write(self, value: float) -> str:
        """Another number of the same kind, as people read it."""
        return f"{value:.1%}" if self.percent else f"{value:.4g}"

    def is_better_than(self, other: float) -> bool:
        """Whether this number is better than another of the same kind."""
        return self.value > other if self.higher_is_better else self.value < other

    def warn(self, cheap: Mapping[str, float]) -> str:
        """A sentence where one of the cheap answers is better; else nothing."""
        best = (max if self.higher_is_better else min)(cheap, key=lambda name: cheap[name], default="")
        rounding = 1e-6 if self.higher_is_better else -1e-6 * abs(self.value)  # float32 beside float64
        if not cheap or not replace(self, value=cheap[best]).is_better_than(self.value + rounding):
            return ""
        return f"the model is worse than {best} ({self} against {self.write(cheap[best])})"


@dataclass(frozen=True, eq=False)
class Outcome(abc.ABC):
    """How good a model is on one set of images."""

    chooses_best: ClassVar[bool] = True
    """Whether the headline may choose the best weights of a run. A pre-training loss may not: it does not tell how
    good the features are."""
    headline_key: ClassVar[str] = "loss"
    """The headline's name among `numbers`."""
    panels: ClassVar[Sequence[Panel]]
    """The curves of a report: keys of the log, training against held out."""
    images: int
    """How many images were judged: the denominator of every share."""

    @property
    @abc.abstractmethod
    def headline(self) -> Headline:
        """The one number, its name and which way is better."""

    @property
    @abc.abstractmethod
    def numbers(self) -> Mapping[str, float]:
        """All single numbers by name, `images` first: for the log, records and JSON."""

    @abc.abstractmethod
    def facts(self) -> list[tuple[str, str]]:
        """The single numbers as people read them, the headline first."""

    def sections(self, image_of: ImageOf) -> list[Section]:
        """The sections of a report that say how good the model is: the facts, and what else an outcome can show."""
        return [Facts("Result", self.facts(), style="tiles")]

    def table(self) -> Table | None:
        """One row a class; None where there are no classes."""
        return None

    def details(self) -> dict[str, Any]:
        """More than single numbers, as plain JSON values."""
        return {}

    def draw_sheet(self, image_of: ImageOf) -> bytes | None:
        """predictions.png: some images with their answers; None where answers are not words."""
        return None

    def __str__(self) -> str:
        """The headline with its interval, on one line."""
        if not self.images:
            return "none: every image was trained on"
        line = f"{self.headline} on {self.images:,} {'image' if self.images == 1 else 'images'}"
        if self.headline.interval is None:
            return line
        low, high = (f"{edge:.1%}" if self.headline.percent else f"{edge:.4g}" for edge in self.headline.interval)
        return f"{line} (95 % interval {low} to {high})"
