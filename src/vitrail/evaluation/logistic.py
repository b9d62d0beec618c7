"""Logistic regression along a path of regularisation, as DINOv2 (`eval/log_regression.py`) chooses C: 45 values, 1e-6
to 1e5.

min over W, b of C·Σ_i -log softmax(W x_i + b)[y_i] + ½‖W‖²: scikit-learn's objective, so that its C means the same
here. The solver is torch's L-BFGS: no dependency on scikit-learn, and the same code on a GPU. Each C starts from the
solution of the one before, which saves most of the work."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from vitrail.evaluation.feature_set import Labelled, Tally, check_grid, check_pair
from vitrail.evaluation.linear import hold_out

C = tuple(10.0 ** (-6 + 11 * step / 44) for step in range(45))


@dataclass(frozen=True, kw_only=True)
class Logistic(Tally):
    """The accuracy with the chosen C, and what it was chosen by."""

    c: float
    validation: tuple[tuple[float, float], ...]
    """(C, accuracy on the held-out tenth) along the path."""
    converged: bool
    """Whether the last fit reached the tolerance before its iterations were used up."""


@dataclass(frozen=True, eq=False)
class Fit:
    """One point of the path."""

    c: float
    weight: Float[Tensor, "D K"]
    bias: Float[Tensor, "K"]
    converged: bool

    def answers(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """The logits, in float64."""
        return features.to(self.weight) @ self.weight + self.bias

    def right(self, data: Labelled) -> int:
        return int((self.answers(data.features).argmax(1) == data.labels).sum())


def logistic(train: Labelled, test: Labelled, *, c: Sequence[float] = C, seed: int = 0) -> Logistic:
    """Test accuracy with the C that did best on a held-out tenth, after a fit on all of them. In float64."""
    check_pair(train, test)
    check_grid(c, "C")
    kept, held = hold_out(train, seed=seed)
    path = sorted(map(float, c))
    validation = [(fit.c, fit.right(held) / len(held)) for fit in fit_path(kept, path)]
    best = max(validation, key=lambda pair: pair[1])[0]
    *_, last = fit_path(train, [step for step in path if step <= best])
    return Logistic(
        right=last.right(test), tested=len(test), c=best, validation=tuple(validation), converged=last.converged
    )


FOLDS = 5
MANY = 1_000
"""Images from which on one fold is enough to choose C by."""


def cross_validated(data: Labelled, *, seed: int = 0) -> tuple[Fit, float]:
    """The head with the C of the smallest loss on images left out, fitted on all; and its accuracy on those images.

    Five folds, every class spread over them. C is tried from 1e-3 to 10 over the variance of the features, so that it
    means the same for every model.
    """
    path = [10 ** (step / 2) / float(data.features.double().var()) for step in range(-6, 3)]
    fold = _folds(data, seed)
    losses, hits, left_out = torch.zeros(len(path)).double(), torch.zeros(len(path)).double(), 0
    for number in range(FOLDS if len(data) < MANY else 1):
        kept, held = data.rows(fold != number), data.rows(fold == number)
        left_out += len(held)
        for row, fit in enumerate(fit_path(kept, path, iterations=200, tolerance=1e-7)):
            losses[row] += cross_entropy(fit.answers(held.features), held.labels, reduction="sum")
            hits[row] += fit.right(held)
    best = int(losses.argmin())
    *_, chosen = fit_path(data, path[: best + 1])
    return chosen, float(hits[best]) / left_out


def _folds(data: Labelled, seed: int) -> Int[Tensor, "N"]:
    """A fold for each image: those of a class are dealt out in turn, in random order."""
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    order = order[torch.argsort(data.labels[order].cpu(), stable=True)]
    fold = torch.empty(len(data), dtype=torch.long)
    fold[order] = torch.arange(len(data)) % FOLDS
    return fold


def fit_path(data: Labelled, c: Sequence[float], iterations: int = 1000, tolerance: float = 1e-9) -> Iterator[Fit]:
    """The fits for ascending C, each from the one before; done when a step lowers the loss by less than `tolerance`."""
    basis = _Basis(data)
    labels, bias = data.labels, basis.features.new_zeros(data.classes, requires_grad=True)
    weight = basis.features.new_zeros(data.width, data.classes)  # in the eigenbasis, not scaled
    for strength in c:
        decay = 1 / (strength * len(data))
        scale = (basis.variance / data.classes + decay).rsqrt()[:, None]
        scaled = (weight / scale).requires_grad_()
        solver = torch.optim.LBFGS(
            [scaled, bias],
            max_iter=iterations,
            tolerance_grad=0.0,
            tolerance_change=tolerance,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def loss(scaled: Tensor = scaled, scale: Tensor = scale, decay: float = decay) -> Any:
            for part in (scaled, bias):
                part.grad = None
            weight = scaled * scale
            value = cross_entropy(basis.features @ weight + bias, labels) + 0.5 * decay * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
        finished = solver.state[scaled]["n_iter"] < iterations
        weight = scaled.detach() * scale
        yield basis.fit(strength, weight, bias.detach().clone(), finished)


class _Basis:
    """The features centred and in their eigenbasis, where the curvature at W = 0 is diagonal: variance / K + decay.

    A rotation leaves ‖W‖ as it is, and centring only moves the bias, so the problem is the same; divided by the root of
    that curvature its variables are alike, and L-BFGS needs tens of steps where it needed thousands.
    """

    def __init__(self, data: Labelled) -> None:
        features = data.features.double()
        self.mean = features.mean(0)
        centred = features - self.mean
        variance, self.vectors = torch.linalg.eigh(centred.T @ centred / len(data))
        self.variance = variance.clamp(min=0)
        self.features = centred @ self.vectors

    def fit(self, c: float, weight: Float[Tensor, "D K"], bias: Float[Tensor, "K"], converged: bool) -> Fit:
        weight = self.vectors @ weight
        return Fit(c, weight, bias - self.mean @ weight, converged)
