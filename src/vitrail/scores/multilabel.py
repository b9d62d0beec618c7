"""Several labels an image: every class is a question of its own, answered yes where its probability reaches a threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.reports.figures import Panel
from vitrail.reports.page import Gallery, Picture, Section, TableSection
from vitrail.reports.sheets import prediction_sheet
from vitrail.reports.tables import Column, Table
from vitrail.scores.classification import rates
from vitrail.scores.finite import check_finite
from vitrail.scores.outcome import Headline, ImageOf, Outcome
from vitrail.scores.statistics import resample

WORST, SHEET = 24, 24
RESAMPLES = 400
MISTAKES = "Images with the surest wrong answer: a label too many or one too few. Some may be wrong labels."
NOT_TUNED = "chosen on one half of the images and applied to the other, so that no image helps to choose its own"


@dataclass(frozen=True)
class LabelScore:
    """One class as a yes-or-no question. None where a number cannot exist."""

    name: str
    images: int
    """Images that have this label."""
    average_precision: float | None
    recall: float | None
    precision: float | None
    f1: float | None


@dataclass(frozen=True, eq=False)
class MultiLabelScores(Outcome):
    """A model on images with several labels each. The headline is mean average precision, which needs no threshold."""

    panels: ClassVar = (
        Panel("Loss", {"loss": "training"}, log=True),
        Panel("Held out", {"held_out_map": "mean average precision", "held_out_f1_micro": "F1"}, percent=True),
        Panel("Learning rate", {"lr": "learning rate"}),
    )
    headline_key: ClassVar = "map"

    classes: tuple[str, ...]
    mean_average_precision: float
    """Over the classes that any image has."""
    interval: tuple[float, float]
    """95 % interval: where 95 of 100 resamples of the images put it (percentile bootstrap, Efron 1979)."""
    threshold: float
    """Least probability of a label that is given."""
    tuned: bool
    """Whether the threshold was chosen on other images. If not, F1 is cross-fitted over two halves."""
    f1_micro: float
    """2·TP / (2·TP + FP + FN) over all pairs of image and class."""
    f1_macro: float
    """Mean of F1 over the classes."""
    exact: float
    """Share of the images with every label right."""
    per_class: tuple[LabelScore, ...]
    probabilities: Float[np.ndarray, "N K"]
    truth: Bool[np.ndarray, "N K"]
    answers: Bool[np.ndarray, "N K"]

    @property
    def headline(self) -> Headline:
        return Headline("mean average precision", self.mean_average_precision, self.interval)

    @property
    def numbers(self) -> Mapping[str, float]:
        low, high = self.interval
        found = {"images": self.images, "map": self.mean_average_precision, "map_low": low, "map_high": high}
        return found | {name: getattr(self, name) for name in ("f1_micro", "f1_macro", "exact", "threshold")}

    def facts(self) -> list[tuple[str, str]]:
        low, high = self.interval
        return [
            ("Mean average precision", f"{self.mean_average_precision:.2%}"),
            ("95 % interval", f"{low:.2%}–{high:.2%}"),
            ("Images", f"{self.images:,}"),
            ("F1", f"{self.f1_micro:.2%}"),
            ("F1, mean over classes", f"{self.f1_macro:.2%}"),
            ("All labels right", f"{self.exact:.2%}"),
            ("Threshold", f"{self.threshold:.3f}"),
        ]

    def details(self) -> dict[str, Any]:
        return {"per_class": [asdict(row) for row in self.per_class]}

    def table(self) -> Table:
        """One row a class."""
        shares = (Column(name, "{:.2%}") for name in ("average precision", "recall", "precision", "f1"))
        rows = tuple(tuple(asdict(row).values()) for row in self.per_class)
        return Table((Column("class"), Column("images", "{:,}"), *shares), rows, title="Classes")

    def sections(self, image_of: ImageOf) -> list[Section]:
        """Scores, classes and the worst mistakes."""
        how = "chosen on validation images" if self.tuned else NOT_TUNED
        note = f"Recall, precision and F1 are those of labels above the threshold, which was {how}."
        return [
            *super().sections(image_of),
            TableSection("Classes", self.table(), note),
            Gallery("Worst mistakes", [self._mistake(index, image_of) for index in self.worst()], MISTAKES),
        ]

    def worst(self) -> list[int]:
        """Images with a wrong label, the surest mistake first."""
        wrong = np.where(self.answers != self.truth, np.abs(self.probabilities - self.truth), -1.0).max(1)
        order = np.argsort(-wrong, kind="stable")[:WORST]
        return order[wrong[order] >= 0].tolist()

    def draw_sheet(self, image_of: ImageOf) -> bytes:
        """Images spread over the set, each with the labels it got."""
        shown = np.linspace(0, self.images - 1, min(self.images, SHEET), dtype=int).tolist()
        right = [bool((self.answers[index] == self.truth[index]).all()) for index in shown]
        named = [(self._names(self.answers[index]), self._names(self.truth[index])) for index in shown]
        titles = [given if same else f"{given}\nnot {truth}" for (given, truth), same in zip(named, right, strict=True)]
        return prediction_sheet([image_of(index) for index in shown], titles, right, title=f"{self}")

    def _mistake(self, index: int, image_of: ImageOf) -> Picture:
        given, truth = self._names(self.answers[index]), self._names(self.truth[index])
        return Picture(image_of(index), given, f"is {truth}", good=False)

    def _names(self, row: Bool[np.ndarray, "K"]) -> str:
        return ", ".join(self.classes[k] for k in np.flatnonzero(row)) or "no label"


def score_labels(
    logits: Float[Tensor, "N K"],
    targets: Float[Tensor, "N K"] | Int[Tensor, "N K"],
    classes: Sequence[str],
    *,
    threshold: float | None = None,
) -> MultiLabelScores:
    """Scores independent yes-or-no answers; `targets` are 0 or 1.

    `threshold` is on sigmoid(logits) and was chosen on other images. Without one it is chosen here; recall, precision and F1
    are then cross-fitted: the threshold of one half of the images answers the other.
    Raises DataError for other targets, NonFiniteError for answers that are not finite.
    """
    _check(logits, targets, classes)
    probabilities, truth = logits.double().sigmoid().cpu().numpy(), targets.cpu().numpy() > 0
    answers = _cross_fit(probabilities, truth) if threshold is None else probabilities >= threshold
    precision, interval = mean_average_precision(logits.double().cpu().numpy(), truth)
    rows = tuple(_label_score(name, answers[:, k], truth[:, k], precision[k]) for k, name in enumerate(classes))
    return MultiLabelScores(
        images=len(truth),
        classes=tuple(classes),
        mean_average_precision=float(np.mean([value for value in precision if value is not None])),
        interval=interval,
        threshold=choose_threshold(probabilities, truth) if threshold is None else threshold,
        tuned=threshold is not None,
        f1_micro=float(2 * (answers & truth).sum() / max(answers.sum() + truth.sum(), 1)),
        f1_macro=float(np.mean([row.f1 or 0.0 for row in rows])),
        exact=float((answers == truth).all(1).mean()),
        per_class=rows,
        probabilities=probabilities,
        truth=truth,
        answers=answers,
    )


def choose_threshold(probabilities: Float[np.ndarray, "N K"], truth: Bool[np.ndarray, "N K"]) -> float:
    """The probability above which labels give the best F1 over all pairs of image and class; 0.5 without any label.

    It lies in the middle between two answers. One for all classes: a rare class has too few images to choose its own.
    """
    order = np.argsort(-probabilities, axis=None, kind="stable")
    ranked, hits = probabilities.flat[order], np.cumsum(truth.flat[order])
    if not hits[-1]:
        return 0.5
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    f1[:-1][ranked[:-1] == ranked[1:]] = -1  # equal answers cannot be told apart
    best = int(f1.argmax())
    below = ranked[best + 1] if best + 1 < len(ranked) else 0.0
    return float((ranked[best] + below) / 2)


def _cross_fit(probabilities: Float[np.ndarray, "N K"], truth: Bool[np.ndarray, "N K"]) -> Bool[np.ndarray, "N K"]:
    answers = np.empty_like(truth)
    for half in (0, 1):
        mine, other = slice(half, None, 2), slice(1 - half, None, 2)
        threshold = choose_threshold(probabilities[other], truth[other]) if len(truth) > 1 else 0.5
        answers[mine] = probabilities[mine] >= threshold
    return answers


def mean_average_precision(
    scores: Float[np.ndarray, "N K"], truth: Bool[np.ndarray, "N K"]
) -> tuple[list[float | None], tuple[float, float]]:
    """(the average precision of each class, None without an image; the 95 % bootstrap interval of their mean)."""
    found = resample(len(truth), lambda counts: average_precision(scores, truth, counts), RESAMPLES)
    means = np.nanmean(found[~np.isnan(found).all(1)], 1)[1:]  # a resample without any label has no mean
    low, high = np.quantile(means, [0.025, 0.975]) if len(means) else (0.0, 1.0)
    return [None if np.isnan(value) else float(value) for value in found[0]], (float(low), float(high))


def average_precision(
    scores: Float[np.ndarray, "N K"], truth: Bool[np.ndarray, "N K"], counts: Float[np.ndarray, "R N"]
) -> Float[np.ndarray, "R K"]:
    """Σ_n (R_n - R_{n-1})·P_n down each class's ranking, equal scores taken together; NaN without a positive.

    Each row of `counts` says how often each image stands in a sample.
    """
    found = np.full((len(counts), truth.shape[1]), np.nan)
    for k in np.flatnonzero(truth.any(0)):
        order = np.argsort(-scores[:, k], kind="stable")
        last = np.flatnonzero(np.r_[np.diff(scores[order, k]) != 0, True])  # of each run of equal scores
        hits = np.cumsum(counts[:, order] * truth[order, k], 1)[:, last]
        seen = np.cumsum(counts[:, order], 1)[:, last]
        gained = np.diff(hits, axis=1, prepend=0.0) * hits / np.maximum(seen, 1)
        some = hits[:, -1] > 0
        found[some, k] = gained.sum(1)[some] / hits[some, -1]
    return found


def _check(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> None:
    if not len(targets) or targets.ndim != 2 or not bool(((targets == 0) | (targets == 1)).all()):
        raise DataError("labels that are not 0 or 1, or none at all", allowed="one row of 0 and 1 for each image")
    if logits.shape != targets.shape or logits.shape[1] != len(classes):
        raise DataError(
            f"answers {tuple(logits.shape)}, labels {tuple(targets.shape)} and {len(classes)} class names",
            allowed="one answer and one label for each image and class",
        )
    if not bool(targets.any()):
        raise DataError("no image has any of the classes", next_step="check the column of labels")
    check_finite(logits)


def _label_score(
    name: str, answers: Bool[np.ndarray, "N"], truth: Bool[np.ndarray, "N"], precision: float | None
) -> LabelScore:
    images, given, right = int(truth.sum()), int(answers.sum()), int((answers & truth).sum())
    return LabelScore(name, images, precision, *rates(images, given, right))
