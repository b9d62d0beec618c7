"""One number an image: how far the answers are from the truth."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vitrail.errors import DataError
from vitrail.reports import figures
from vitrail.reports.figures import Panel
from vitrail.reports.page import FigureSection, Gallery, Picture, Section
from vitrail.reports.sheets import prediction_sheet
from vitrail.scores.finite import check_finite
from vitrail.scores.outcome import Headline, ImageOf, Outcome
from vitrail.scores.statistics import resample

WORST, SHEET = 24, 24
RESAMPLES = 1000
SCATTER = "Each dot is an image. On the line the answer is the truth."
MISTAKES = "The answers farthest from the truth. Some may be wrong labels."


@dataclass(frozen=True)
class Interval:
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class NumberScores(Outcome):
    """A model that answers with a number. The headline is the mean absolute error, in the unit of the labels."""

    panels: ClassVar = (
        Panel("Loss", {"loss": "training"}, log=True),
        Panel("Mean error", {"mae": "training", "held_out_mae": "held out"}),
        Panel("Learning rate", {"lr": "learning rate"}),
    )
    headline_key: ClassVar = "mae"

    name: str
    """The number's name: the column of the list."""
    mae: Interval
    """Mean |answer - truth|, with its 95 % bootstrap interval."""
    rmse: float
    """Root of the mean squared error: large mistakes weigh more."""
    r2: Interval
    """1 - Σ(answer - truth)² / Σ(truth - mean)²: 1 is perfect, 0 as good as always the mean of these images."""
    truth: Float[np.ndarray, "N"]
    answers: Float[np.ndarray, "N"]

    @property
    def headline(self) -> Headline:
        interval = self.mae.low, self.mae.high
        return Headline("mean error", self.mae.value, interval, percent=False, higher_is_better=False)

    @property
    def numbers(self) -> Mapping[str, float]:
        found = {"images": self.images, "mae": self.mae.value, "mae_low": self.mae.low, "mae_high": self.mae.high}
        return {**found, "rmse": self.rmse, "r2": self.r2.value, "r2_low": self.r2.low, "r2_high": self.r2.high}

    def facts(self) -> list[tuple[str, str]]:
        return [
            ("Mean error (MAE)", f"{self.mae.value:.4g}"),
            ("95 % interval", f"{self.mae.low:.4g}–{self.mae.high:.4g}"),
            ("Root mean square", f"{self.rmse:.4g}"),
            ("R²", f"{self.r2.value:.3f}"),
            ("95 % interval of R²", f"{self.r2.low:.3f}–{self.r2.high:.3f}"),
            ("Always the mean", f"{np.abs(self.truth - self.truth.mean()).mean():.4g}"),
            ("Images", f"{self.images:,}"),
        ]

    def sections(self, image_of: ImageOf) -> list[Section]:
        """Scores, answers against truth, and the worst mistakes."""
        worst = np.argsort(-np.abs(self.answers - self.truth), kind="stable")[:WORST].tolist()
        return [
            *super().sections(image_of),
            FigureSection("Answers", [figures.draw_answers(self.truth, self.answers, self.name)], note=SCATTER),
            Gallery("Worst mistakes", [self._mistake(index, image_of) for index in worst], MISTAKES),
        ]

    def draw_sheet(self, image_of: ImageOf) -> bytes:
        """Images spread over the set, each with its answer and its truth."""
        shown = np.linspace(0, self.images - 1, min(self.images, SHEET), dtype=int).tolist()
        titles = [f"{self.answers[index]:.4g}\nis {self.truth[index]:.4g}" for index in shown]
        close = [bool(abs(self.answers[index] - self.truth[index]) <= self.mae.value) for index in shown]
        return prediction_sheet(
            [image_of(index) for index in shown], titles, close, title=f"{self.name}: mean error {self}"
        )

    def _mistake(self, index: int, image_of: ImageOf) -> Picture:
        return Picture(image_of(index), f"{self.answers[index]:.4g}", f"is {self.truth[index]:.4g}", good=False)


def score_numbers(answers: Float[Tensor, "N 1"], truth: Float[Tensor, "N 1"], name: str = "value") -> NumberScores:
    """Scores one number an image. Raises DataError for no images or other shapes, NonFiniteError for NaN and ±inf."""
    if not len(truth) or answers.shape != truth.shape or truth.shape[1] != 1:
        raise DataError(f"answers {tuple(answers.shape)} to labels {tuple(truth.shape)}", allowed="one number an image")
    check_finite(answers)
    given, wanted = (values.double().cpu().numpy()[:, 0] for values in (answers, truth))
    mae, r2 = measure(given, wanted)
    rmse = float(np.sqrt(np.square(given - wanted).mean()))
    return NumberScores(images=len(wanted), name=name, mae=mae, rmse=rmse, r2=r2, truth=wanted, answers=given)


def measure(given: Float[np.ndarray, "N"], wanted: Float[np.ndarray, "N"]) -> tuple[Interval, Interval]:
    """Mean |error| and R², with the ends between which 95 of 100 resamples of the images put them (Efron 1979)."""
    found = resample(len(wanted), lambda counts: _weighted(given, wanted, counts), RESAMPLES)
    low, high = np.quantile(found[1:], [0.025, 0.975], axis=0)
    mae, r2 = (Interval(float(found[0, k]), float(low[k]), float(high[k])) for k in (0, 1))
    return mae, r2


def _weighted(
    given: Float[np.ndarray, "N"], wanted: Float[np.ndarray, "N"], counts: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, "R 2"]:
    """(mean |error|, R²) of samples in which image i stands `counts[r, i]` times."""
    error, centred = given - wanted, wanted - wanted.mean()
    spread = counts @ np.square(centred) - np.square(counts @ centred) / len(wanted)
    missed = counts @ np.square(error)
    r2 = np.where(spread > 0, 1 - missed / np.maximum(spread, 1e-300), 0.0)
    return np.stack([counts @ np.abs(error) / len(wanted), r2], axis=1)
