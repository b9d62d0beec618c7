"""Where two curves cross, which points nothing cheaper beats, and a saturating power law through points."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from vitrail.errors import DataError

REPEATS = 2000


@dataclass(frozen=True)
class Crossing:
    """Where the first of two curves goes above the second."""

    at: float | None
    """None where it does not, within what was measured."""
    low: float | None = None
    high: float | None = None
    """Ends of the 95 % interval, of the resamples that cross."""
    share: float = 0.0
    """Share of the resamples that cross."""


def first_crossing(x: Sequence[float], gap: Sequence[float]) -> float | None:
    """The x at which `gap` goes from below zero to above, on straight lines over log x; None where it does not."""
    for (x0, g0), (x1, g1) in itertools.pairwise(zip(x, gap, strict=True)):
        if g0 < 0 <= g1:
            return math.exp(math.log(x0) + (math.log(x1) - math.log(x0)) * g0 / (g0 - g1))
    return None


def find_crossing(
    x: Sequence[float], first: Sequence[Sequence[float]], second: Sequence[Sequence[float]], *, seed: int = 0
) -> Crossing:
    """The crossing of two curves of means. `first` and `second` have the values over the seeds at each x.

    The interval is a percentile bootstrap: at every x the seeds of both are drawn again, with replacement.
    """
    draws = np.random.default_rng(seed)

    def redraw(values: Sequence[float]) -> Float[np.ndarray, "repeats"]:
        return draws.choice(np.asarray(values, float), (REPEATS, len(values))).mean(1)

    gap = [float(np.mean(one) - np.mean(other)) for one, other in zip(first, second, strict=True)]
    again = np.stack([redraw(one) - redraw(other) for one, other in zip(first, second, strict=True)], axis=1)
    found = [at for at in (first_crossing(x, sample) for sample in again.tolist()) if at is not None]
    low, high = (float(end) for end in np.quantile(found, [0.025, 0.975])) if found else (None, None)
    return Crossing(first_crossing(x, gap), low, high, len(found) / REPEATS)


def pareto_front(costs: Sequence[float], values: Sequence[float]) -> list[int]:
    """The places of the points that no cheaper or equally cheap one beats, from cheap to dear."""
    front: list[int] = []
    for place in sorted(range(len(costs)), key=lambda place: (costs[place], -values[place])):
        if not front or values[place] > values[front[-1]]:
            front.append(place)
    return front


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + scale · cost^(-exponent)."""

    floor: float
    scale: float
    exponent: float

    def error(self, cost: float) -> float:
        return self.floor + self.scale * cost**-self.exponent

    def cost(self, error: float) -> float | None:
        """The cost that brings the error down to this; None where the law never does."""
        if error <= self.floor or not self.scale:
            return None
        return float(((error - self.floor) / self.scale) ** (-1 / self.exponent))


EXPONENTS = np.geomspace(0.02, 2.0, 200)


def fit_power_law(costs: Sequence[float], errors: Sequence[float]) -> PowerLaw:
    """Least squares with a floor and a scale of 0 or more: solved exactly at each of 200 exponents, the best is taken.

    Raises DataError for fewer than three costs.
    """
    if len(set(costs)) < 3:
        raise DataError(f"a law through {len(set(costs))} costs", allowed="three or more")
    x, y = np.log(np.asarray(costs, float)), np.asarray(errors, float)
    middle = x.mean()
    laws = [(*_floor_and_scale(np.exp(-c * (x - middle)), y), c) for c in EXPONENTS]
    floor, scale, _, exponent = min(laws, key=lambda law: law[2])
    return PowerLaw(floor, scale * math.exp(exponent * middle), float(exponent))


def _floor_and_scale(basis: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"]) -> tuple[float, float, float]:
    """(floor, scale, squared error) of y = floor + scale · basis, neither below 0."""
    scale = float(np.cov(basis, y, bias=True)[0, 1] / basis.var())
    floor = float(y.mean() - scale * basis.mean())
    if floor < 0:
        floor, scale = 0.0, float(basis @ y / (basis @ basis))
    if scale < 0:
        floor, scale = float(y.mean()), 0.0
    return floor, scale, float(((y - floor - scale * basis) ** 2).sum())


def interval_of_exponent(
    costs: Sequence[float], errors: Sequence[float], *, repeats: int = 100, seed: int = 0
) -> tuple[float, float]:
    """Ends of the 95 % percentile bootstrap over the points; of the draws with three costs or more."""
    draws, found = np.random.default_rng(seed), []
    x, y = np.asarray(costs, float), np.asarray(errors, float)
    while len(found) < repeats:
        rows = draws.integers(len(x), size=len(x))
        if len(set(x[rows])) >= 3:
            found.append(fit_power_law(list(x[rows]), list(y[rows])).exponent)
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
