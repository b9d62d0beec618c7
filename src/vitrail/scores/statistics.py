"""How sure a number is: intervals of a share, resamples, paired tests on the same images, mean ± deviation over seeds."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from vitrail.errors import DataError

AT_ONCE = 1 << 23  # numbers of one block of resamples
Z95 = 1.959963984540054  # a standard normal variable is within ±Z95 in 95 of 100 draws


@dataclass(frozen=True)
class Spread:
    """Several runs of one thing: "94.3 ± 0.2 (n=3)"."""

    mean: float
    deviation: float | None
    """The sample standard deviation, n - 1 below; None for a single run."""
    n: int

    def __str__(self) -> str:
        if self.deviation is None:
            return f"{100 * self.mean:.2f} (n=1)"
        return f"{100 * self.mean:.2f} ± {100 * self.deviation:.2f} (n={self.n})"


def spread(values: Sequence[float]) -> Spread:
    """Mean and sample deviation, as the ViT paper's Table 2 gives them over three fine-tuning runs."""
    if not values:
        raise DataError("no values to average")
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Spread(float(np.mean(values)), deviation, len(values))


def wilson(right: int, images: int) -> tuple[float, float]:
    """The 95 % interval of a share: every p from which `right` of `images` is at most Z95 standard errors away.

    Wilson 1927. Unlike the textbook ± it stays within 0 and 1, and 100 % of ten images does not pretend to be certain.
    """
    share, z2 = right / images, Z95**2 / images
    half = Z95 * math.sqrt(share * (1 - share) / images + z2 / (4 * images))
    low, high = ((share + z2 / 2 + sign * half) / (1 + z2) for sign in (-1, 1))
    return (0.0 if right == 0 else low), (1.0 if right == images else high)


@dataclass(frozen=True)
class McNemar:
    """Two models on the same images. Only the images that one of them gets right tell them apart."""

    images: int
    both: int
    only_first: int
    only_second: int
    neither: int
    exact: float
    """Two-sided exact p-value: how often a fair coin thrown (only_first + only_second) times is this uneven or more."""
    mid_p: float
    """The same with half the weight on the very split seen (Fagerland 2013): less conservative, the one to quote."""

    @property
    def difference(self) -> float:
        """Accuracy of the second minus that of the first."""
        return (self.only_second - self.only_first) / self.images

    def verdict(self, first: str = "the first model", second: str = "the second model") -> str:
        """One sentence, by the mid-p value: which model is better, or that these images do not show it."""
        cases = f"two equally good models would differ so much in {_percent(self.mid_p)} of 100 cases"
        if self.mid_p >= 0.05:
            return f"These {self.images:,} images show no difference between {first} and {second}: {cases}."
        better, worse = (second, first) if self.difference > 0 else (first, second)
        return f"{better} is better than {worse} on such images: {cases}."

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the difference (Wald with Bonett and Price's 2012 adjustment: one image added to each cell
        pair).
        """
        n = self.images + 2
        first, second = (self.only_first + 1) / n, (self.only_second + 1) / n
        half = Z95 * math.sqrt((first + second - (second - first) ** 2) / n)
        return max(-1.0, second - first - half), min(1.0, second - first + half)


def _percent(p: float) -> str:
    return "fewer than 0.01" if p < 1e-4 else f"{100 * p:.2g}" if p < 0.995 else "100"


def mcnemar(first: Bool[np.ndarray, "N"], second: Bool[np.ndarray, "M"]) -> McNemar:
    """Compares which images two models answered right. Raises DataError for different or no images."""
    if len(first) != len(second) or not len(first):
        raise DataError(
            f"answers to {len(first)} and to {len(second)} images", allowed="the same images, in the same order"
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    exact, point = _binomial_tail(min(only_first, only_second), only_first + only_second)
    return McNemar(
        images=len(first),
        both=int((first & second).sum()),
        only_first=only_first,
        only_second=only_second,
        neither=int((~first & ~second).sum()),
        exact=min(1.0, 2 * exact),
        mid_p=min(1.0, 2 * exact - point),
    )


def _binomial_tail(k: int, n: int) -> tuple[float, float]:
    """P(X <= k) and P(X = k) for X ~ Binomial(n, 1/2); whole numbers up to the one division, so no tail is too thin."""
    total = term = 1
    for i in range(1, k + 1):
        term = term * (n - i + 1) // i
        total += term
    return total / 2**n, term / 2**n


def resample(
    images: int, statistic: Callable[[Float[np.ndarray, "R N"]], Float[np.ndarray, "R K"]], resamples: int
) -> Float[np.ndarray, "S K"]:
    """A statistic of the images, in the first row, then of so many samples drawn from them with repetition (Efron 1979).

    The statistic is given counts: how often each image stands in each of R samples.
    """
    draws, step = np.random.default_rng(0), max(1, AT_ONCE // images)
    found = [statistic(np.ones((1, images)))]
    for first in range(0, resamples, step):
        counts = draws.multinomial(images, np.full(images, 1 / images), size=min(step, resamples - first))
        found.append(statistic(counts.astype(np.float64)))
    return np.concatenate(found)
