"""One class an image: how good a classifier's answers are, and how far its probabilities can be believed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.reports import figures
from vitrail.reports.confusion import draw_confusion
from vitrail.reports.page import FigureSection, Gallery, Picture, Section, TableSection
from vitrail.reports.sheets import prediction_sheet
from vitrail.reports.tables import Column, Table
from vitrail.scores.calibration import BINS, Bin, reliability
from vitrail.scores.finite import check_finite
from vitrail.scores.outcome import Headline, ImageOf, Outcome
from vitrail.scores.statistics import wilson

WORST, PAIRS, SHEET = 24, 12, 24
CONFUSION = "Each row holds the images of one class. The shade is their share, on a root scale: rare mistakes show."
CALIBRATION = "Of the answers given with a confidence of 80 %, 80 % should be right: then the bars follow the diagonal."
MISTAKES = "The wrong answers the model was surest of. Some may be wrong labels."


@dataclass(frozen=True)
class ClassScore:
    """One class. None where it cannot exist: recall of a class with no image, precision of one never answered."""

    name: str
    images: int
    recall: float | None
    """The share of its images that got this answer."""
    precision: float | None
    """The share of right answers among those that named it."""
    f1: float | None
    """2·TP / (2·TP + FP + FN)."""


@dataclass(frozen=True, eq=False)
class Scores(Outcome):
    """A classifier on one set of images, each of one class. The headline is top-1 accuracy."""

    panels: ClassVar = figures.PANELS
    headline_key: ClassVar = "top1"

    classes: tuple[str, ...]
    top1: float
    interval: tuple[float, float]
    """95 % confidence interval of top1 (Wilson 1927)."""
    top5: float | None
    """None with five classes or fewer, where it would say nothing."""
    nll: float
    """Mean negative log-likelihood of the right class, in nats."""
    ece: float
    """Expected calibration error: mean over images of |accuracy - confidence| of their bin (Guo 2017, eq. 3)."""
    brier: float
    """Mean squared distance of the probabilities from the one-hot answer, summed over classes: 0 to 2 (Brier 1950)."""
    per_class: tuple[ClassScore, ...]
    confusion: Int[np.ndarray, "K K"]
    """Images of class i (row) answered as class j (column)."""
    bins: tuple[Bin, ...]
    targets: Int[np.ndarray, "N"]
    predicted: Int[np.ndarray, "N"]
    confidence: Float[np.ndarray, "N"]
    """Probability of the answer that was given."""
    worst: Int[np.ndarray, "M"]
    """Indices of the mistakes, the most confident first."""

    def __repr__(self) -> str:
        return f"Scores({', '.join(f'{name}={value:.4g}' for name, value in self.numbers.items())})"

    @property
    def balanced(self) -> float:
        """Mean recall of the classes that have images: what top1 would be with as many images of each."""
        return float(np.mean([row.recall for row in self.per_class if row.recall is not None]))

    @property
    def headline(self) -> Headline:
        return Headline("accuracy", self.top1, self.interval)

    @property
    def numbers(self) -> Mapping[str, float]:
        low, high = self.interval
        found = {"images": self.images, "top1": self.top1, "top1_low": low, "top1_high": high}
        found |= {} if self.top5 is None else {"top5": self.top5}
        return found | {name: getattr(self, name) for name in ("balanced", "nll", "ece", "brier")}

    def facts(self) -> list[tuple[str, str]]:
        low, high = self.interval
        facts = [
            ("Accuracy (top-1)", f"{self.top1:.2%}"),
            ("95 % interval", f"{low:.2%}–{high:.2%}"),
            ("Right", f"{self.images - len(self.worst):,} of {self.images:,}"),
            ("Top-5", "" if self.top5 is None else f"{self.top5:.2%}"),
            ("Mean over classes", f"{self.balanced:.2%}"),
            ("Calibration error", f"{self.ece:.2%}"),
            ("Log loss", f"{self.nll:.4f}"),
            ("Brier score", f"{self.brier:.4f}"),
        ]
        return [(name, value) for name, value in facts if value]

    def details(self) -> dict[str, Any]:
        return {"per_class": [asdict(row) for row in self.per_class], "confusion": self.confusion.tolist()}

    def sections(self, image_of: ImageOf) -> list[Section]:
        """Scores, confusions, classes, calibration and the worst mistakes."""
        confused = self.confused_table()
        return [
            *super().sections(image_of),
            FigureSection("Confusion", [draw_confusion(self.confusion, self.classes)], note=CONFUSION),
            *([TableSection("Most frequent mistakes", confused)] if confused.rows else []),
            TableSection("Classes", self.table()),
            FigureSection("Calibration", [draw_reliability(self.bins)], note=CALIBRATION),
            Gallery(
                "Worst mistakes", [self._mistake(index, image_of) for index in self.worst[:WORST].tolist()], MISTAKES
            ),
        ]

    def table(self) -> Table:
        """One row a class."""
        shares = (Column(name, "{:.2%}") for name in ("recall", "precision", "f1"))
        rows = tuple((row.name, row.images, row.recall, row.precision, row.f1) for row in self.per_class)
        return Table((Column("class"), Column("images", "{:,}"), *shares), rows, title="Classes")

    def confused_table(self, most: int = PAIRS) -> Table:
        """Which class was taken for which, the most frequent first."""
        mistakes = self.confusion.copy()
        np.fill_diagonal(mistakes, 0)
        order = np.argsort(-mistakes, axis=None, kind="stable")[:most]
        pairs = [(*divmod(int(at), len(mistakes)), int(mistakes.flat[at])) for at in order if mistakes.flat[at]]
        rows = tuple((self.classes[i], self.classes[j], n, n / self.per_class[i].images) for i, j, n in pairs)
        names = Column("class"), Column("answered as")
        numbers = Column("images", "{:,}"), Column("share of the class", "{:.1%}")
        return Table((*names, *numbers), rows, title="Most frequent mistakes")

    def draw_sheet(self, image_of: ImageOf) -> bytes:
        """The surest mistakes first, then right answers spread over the set."""
        wrong = [int(index) for index in self.worst[: SHEET // 2]]
        right = np.flatnonzero(self.predicted == self.targets)
        spread = np.linspace(0, len(right) - 1, min(len(right), SHEET - len(wrong)), dtype=int)
        shown = [*wrong, *(right[spread].tolist() if len(right) else [])]
        named = [(self.classes[self.predicted[index]], self.classes[self.targets[index]]) for index in shown]
        titles = [answer if answer == truth else f"{answer}\nnot {truth}" for answer, truth in named]
        low, high = self.interval
        title = f"{self.top1:.2%} right of {self.images:,} held-out images (95 % interval {low:.1%} to {high:.1%})"
        images = [image_of(index) for index in shown]
        return prediction_sheet(images, titles, [index not in wrong for index in shown], title=title)

    def _mistake(self, index: int, image_of: ImageOf) -> Picture:
        answer, truth = (self.classes[of[index]] for of in (self.predicted, self.targets))
        return Picture(image_of(index), answer, f"{self.confidence[index]:.0%} sure; is {truth}", good=False)


def score_classes(logits: Float[Tensor, "N K"], targets: Int[Tensor, "N"], classes: Sequence[str]) -> Scores:
    """Scores answers `logits` (before softmax) to images of classes `targets`, indices into `classes`.

    Raises DataError for no images, an unlabelled one or a label outside the classes, NonFiniteError for NaN and ±inf.
    """
    _check(logits, targets, classes)
    rows = torch.cat([_per_image(*part) for part in zip(logits.split(8192), targets.split(8192), strict=True)]).numpy()
    predicted, confidence, nll, brier, rank = rows.T
    predicted, right = predicted.astype(np.int64), rank == 0
    labels = targets.cpu().numpy().astype(np.int64)
    confusion = np.bincount(labels * len(classes) + predicted, minlength=len(classes) ** 2).reshape(len(classes), -1)
    counts = zip(
        classes, *(n.tolist() for n in (confusion.sum(1), confusion.sum(0), confusion.diagonal())), strict=True
    )
    bins = reliability(confidence, right)
    return Scores(
        images=len(labels),
        classes=tuple(classes),
        top1=float(right.mean()),
        interval=wilson(int(right.sum()), len(labels)),
        top5=float((rank < 5).mean()) if len(classes) > 5 else None,
        nll=float(nll.mean()),
        ece=sum(b.images * b.gap for b in bins) / len(labels),
        brier=float(brier.mean()),
        per_class=tuple(ClassScore(name, n, *rates(n, *rest)) for name, n, *rest in counts),
        confusion=confusion,
        bins=bins,
        targets=labels,
        predicted=predicted,
        confidence=confidence,
        worst=np.flatnonzero(~right)[np.argsort(-confidence[~right], kind="stable")],
    )


def draw_reliability(bins: Sequence[Bin]) -> figures.Drawing:
    """Accuracy against confidence, and how many images have it."""
    edges = [k / BINS for k in range(BINS + 1)]
    return figures.reliability(edges, *zip(*((b.images, b.confidence, b.accuracy) for b in bins), strict=True))


def _check(logits: Tensor, targets: Tensor, classes: Sequence[str]) -> None:
    if not len(targets):
        raise DataError("there are no images to score", next_step="check the data you named")
    if logits.shape[1] != len(classes):
        raise DataError(f"the model answers {logits.shape[1]} classes, but {len(classes)} have names")
    if int(targets.min()) < 0 or int(targets.max()) >= len(classes):
        wrong = int(((targets < 0) | (targets >= len(classes))).nonzero()[0])
        raise DataError(
            f"image {wrong} has the label {int(targets[wrong])}",
            allowed=f"0 to {len(classes) - 1}",
            next_step="unlabelled images can be predicted, not scored",
        )
    check_finite(logits)


def _per_image(logits: Float[Tensor, "B K"], targets: Int[Tensor, "B"]) -> Float[Tensor, "B five"]:
    """For each image: the answer, its probability, -log p and rank of the right class (last), the Brier term."""
    logits, own = logits.double().cpu(), targets.long().cpu()[:, None]
    logp = logits.log_softmax(1)
    p, own_logit, own_logp = logp.exp(), logits.gather(1, own), logp.gather(1, own)
    brier = p.square().sum(1) - 2 * own_logp[:, 0].exp() + 1
    # equal logits rank in the order of the classes, as argmax does: a model that answers nothing is right 1 in K times
    before = (logits > own_logit) | ((logits == own_logit) & (torch.arange(logits.shape[1]) < own))
    return torch.stack([logits.argmax(1).double(), p.amax(1), -own_logp[:, 0], brier, before.sum(1).double()], dim=1)


def rates(images: int, given: int, right: int) -> tuple[float | None, float | None, float | None]:
    """(recall, precision, F1) of a class with so many images, answers and right answers."""
    return (
        right / images if images else None,
        right / given if given else None,
        2 * right / (images + given) if images + given else None,
    )


def index_labels(
    labels: Int[np.ndarray, "N"] | Float[np.ndarray, "N J"], given: Sequence[str], classes: Sequence[str]
) -> Int[Tensor, "N"] | Float[Tensor, "N K"]:
    """Labels of the classes `given` as labels of `classes`, matched by name; several labels an image have one column each.

    Raises DataError for a class that some image has and `classes` has not.
    """
    found = torch.from_numpy(labels)
    if tuple(given) == tuple(classes) or not given:
        return found.float() if found.ndim == 2 else found.long()
    used = found.any(0).nonzero()[:, 0] if found.ndim == 2 else torch.unique(found[found >= 0])
    unknown = [given[k] for k in used.tolist() if given[k] not in classes]
    if unknown:
        raise DataError(
            f"the model does not know {len(unknown)} of the data's {len(used)} classes: {_some(unknown)}",
            allowed=_some(list(classes)),
            next_step="give the data the model's class names, or evaluate a model trained on these classes",
        )
    if found.ndim == 2:
        columns = {name: k for k, name in enumerate(given)}
        return torch.stack(
            [found[:, columns[name]] if name in columns else found.new_zeros(len(found)) for name in classes], 1
        ).float()
    index = {name: k for k, name in enumerate(classes)}
    table = torch.tensor([index.get(name, -1) for name in given] + [-1])  # the last is for the label -1
    return table[found.long()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
