"""How good a classifier's answers are, and how far its probabilities can be believed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError, NonFiniteError

BINS = 15
"""Of equal width; Guo et al. 2017, "On calibration of modern neural networks", section 2."""
Z95 = 1.959963984540054  # a standard normal variable is within ±Z95 in 95 of 100 draws


@dataclass(frozen=True)
class ClassScore:
    """One class. None where it cannot exist: recall of a class with no image, precision of one never answered."""

    name: str
    images: int
    recall: float | None
    """Of its images, the share answered so."""
    precision: float | None
    """Of the answers that named it, the share that were right."""
    f1: float | None
    """2·TP / (2·TP + FP + FN)."""


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is in (low, high]; the means are None where there are none."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None

    @property
    def gap(self) -> float:
        """|accuracy - confidence|; 0 without images."""
        return 0.0 if self.accuracy is None or self.confidence is None else abs(self.accuracy - self.confidence)


@dataclass(frozen=True, eq=False)
class Scores:
    """Everything said of a classifier on one set of images. Iterating gives the single numbers as (name, value)."""

    images: int
    """How many were scored: the denominator of every share."""
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

    @property
    def balanced(self) -> float:
        """Mean recall of the classes that have images: what top1 would be with as many images of each."""
        return float(np.mean([row.recall for row in self.per_class if row.recall is not None]))

    def __iter__(self) -> Iterator[tuple[str, float]]:
        yield "images", self.images
        yield "top1", self.top1
        yield "top1_low", self.interval[0]
        yield "top1_high", self.interval[1]
        if self.top5 is not None:
            yield "top5", self.top5
        yield from ((name, getattr(self, name)) for name in ("balanced", "nll", "ece", "brier"))


def scores(logits: Float[Tensor, "N K"], targets: Int[Tensor, "N"], classes: Sequence[str]) -> Scores:
    """The scores of answers `logits` (before softmax) to images of classes `targets`, indices into `classes`.

    Raises DataError for no images, an unlabelled one or a label outside the classes, NonFiniteError for NaN and ±inf.
    """
    _check(logits, targets, classes)
    rows = torch.cat([_per_image(*part) for part in zip(logits.split(8192), targets.split(8192), strict=True)]).numpy()
    predicted, confidence, nll, brier, rank = rows.T
    predicted, right = predicted.astype(np.int64), rank == 0
    labels = targets.cpu().numpy().astype(np.int64)
    confusion = np.bincount(labels * len(classes) + predicted, minlength=len(classes) ** 2).reshape(len(classes), -1)
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
        per_class=tuple(_class_score(name, confusion, k) for k, name in enumerate(classes)),
        confusion=confusion,
        bins=bins,
        targets=labels,
        predicted=predicted,
        confidence=confidence,
        worst=np.flatnonzero(~right)[np.argsort(-confidence[~right], kind="stable")],
    )


def wilson(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share: every p from which `right` of `images` is at most Z95 standard errors away.

    Wilson 1927. Unlike the textbook ± it stays within 0 and 1, and 100 % of ten images does not pretend to be certain.
    """
    share, z2 = right / images, Z95**2 / images
    half = Z95 * sqrt(share * (1 - share) / images + z2 / (4 * images))
    low, high = ((share + z2 / 2 + sign * half) / (1 + z2) for sign in (-1, 1))
    return (0.0 if right == 0 else low), (1.0 if right == images else high)


def reliability(confidence: Float[np.ndarray, "N"], right: np.ndarray) -> tuple[Bin, ...]:
    """Mean confidence and accuracy in `BINS` bins of confidence."""
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    images, sure, correct = (np.bincount(index, weight, minlength=BINS) for weight in (None, confidence, right))
    return tuple(
        Bin(k / BINS, (k + 1) / BINS, int(n), *((float(sure[k] / n), float(correct[k] / n)) if n else (None, None)))
        for k, n in enumerate(images)
    )


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
    if not torch.isfinite(logits).all():
        raise NonFiniteError("the model's answers are not finite numbers", next_step="check its weights")


def _per_image(logits: Float[Tensor, "B K"], targets: Int[Tensor, "B"]) -> Float[Tensor, "B five"]:
    """For each image: the answer, its probability, -log p and rank of the right class (last), the Brier term."""
    logits, own = logits.double().cpu(), targets.long().cpu()[:, None]
    logp = logits.log_softmax(1)
    p, own_logit, own_logp = logp.exp(), logits.gather(1, own), logp.gather(1, own)
    brier = p.square().sum(1) - 2 * own_logp[:, 0].exp() + 1
    # equal logits rank in the order of the classes, as argmax does: a model that answers nothing is right 1 in K times
    before = (logits > own_logit) | ((logits == own_logit) & (torch.arange(logits.shape[1]) < own))
    return torch.stack([logits.argmax(1).double(), p.amax(1), -own_logp[:, 0], brier, before.sum(1).double()], dim=1)


def _class_score(name: str, confusion: Int[np.ndarray, "K K"], k: int) -> ClassScore:
    images, answers, right = int(confusion[k].sum()), int(confusion[:, k].sum()), int(confusion[k, k])
    return ClassScore(
        name=name,
        images=images,
        recall=right / images if images else None,
        precision=right / answers if answers else None,
        f1=2 * right / (images + answers) if images + answers else None,
    )
