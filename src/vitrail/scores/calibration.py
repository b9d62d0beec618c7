"""Can probabilities be believed? Reliability bins, one temperature that corrects them, and when an image is none of
the classes.

Guo et al. 2017, "On calibration of modern neural networks".
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.scores.finite import check_finite

BINS = 15
"""Of equal width (section 2)."""
_RANGE = (1e-3, 1e3)


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


def reliability(confidence: Float[np.ndarray, "N"], right: np.ndarray) -> tuple[Bin, ...]:
    """Mean confidence and accuracy in `BINS` bins of confidence."""
    index = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)
    images, sure, correct = (np.bincount(index, weight, minlength=BINS) for weight in (None, confidence, right))
    return tuple(
        Bin(k / BINS, (k + 1) / BINS, int(n), *((float(sure[k] / n), float(correct[k] / n)) if n else (None, None)))
        for k, n in enumerate(images)
    )


def fit_temperature(logits: Float[Tensor, "N K"], targets: Int[Tensor, "M"], smoothing: float = 0.0) -> float:
    """The temperature T that minimises the NLL of softmax(logits / T) (Guo et al. 2017, section 4.2).

    By bisection: in β = 1 / T the NLL is convex, with the slope mean of Σ_k p_k z_k - z_y. T stays within 0.001 to 1000: if
    every answer is right, a smaller T is always better. `smoothing` gives each image this share of uniform labels, so
    that a few images, all answered right, do not make the model certain. The answers stay as they are.
    Raises DataError without images, NonFiniteError for logits that are not finite.
    """
    if not len(targets) or len(targets) != len(logits):
        raise DataError(f"{len(logits)} answers and {len(targets)} labels", allowed="as many of both, at least one")
    check_finite(logits)
    logits = logits.double()
    own = (1 - smoothing) * logits.gather(1, targets.long()[:, None])[:, 0].mean() + smoothing * logits.mean()

    def slope(beta: float) -> float:
        return float(((logits * beta).softmax(1) * logits).sum(1).mean() - own)

    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / (low * high) ** 0.5


KEPT = 0.95
"""Share of the right answers that stay above `least`."""


def calibrate(logits: Float[Tensor, "N K"], targets: Int[Tensor, "M"]) -> "Calibration":
    """The temperature, and the probability below which an image is none of the classes, chosen on images not trained on.

    The labels of N images count as 1 in N + 2 wrong (Platt 1999). `least` is the probability that 95 of 100 right
    answers reach: the largest softmax of an image of another kind is often smaller (Hendrycks and Gimpel 2017,
    arXiv 1610.02136). It is 0 where no answer is right.
    """
    temperature = fit_temperature(logits, targets, smoothing=1 / (len(targets) + 2))
    best = (logits.double() / temperature).softmax(1).max(1)
    right = best.values[best.indices == targets]
    return Calibration(temperature, least=float(right.quantile(1 - KEPT)) if len(right) else 0.0)


@dataclass(frozen=True)
class Calibration:
    """Numbers that validation images choose and that are stored with the weights. None: not chosen."""

    temperature: float | None = None
    """The logits are divided by it before a softmax."""
    threshold: float | None = None
    """The least probability of a label that is given, where an image has several."""
    least: float | None = None
    """The least probability of a class that is given; below it an image is none of the classes."""
