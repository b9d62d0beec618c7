"""Few-shot linear accuracy, as the ViT paper measures it (section 4.1): ridge regression to {-1, 1}^K in closed form.

The details are big_vision's `fewshot_lsr`: k images of each class; features whitened with their mean and standard
deviation; a constant feature of 100 as the bias; W = (XᵀX + l2·I)⁻¹ XᵀY with Y = ±1; the answer is the largest score.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.evaluation.feature_set import Labelled, Tally, check_grid, check_pair

SHOTS = (1, 5, 10, 25)
L2 = 2.0**10  # big_vision's, for every data set
BIAS = 100.0
_CHUNK = 2048  # test images scored at once
_LOW_RANK = 1e-3  # of the largest singular value


@dataclass(frozen=True, kw_only=True)
class FewShot(Tally):
    """One cell of the sweep."""

    shots: int
    l2: float
    seed: int
    images: int
    """Training images: shots of each class."""


def few_shot(
    train: Labelled,
    test: Labelled,
    *,
    shots: Sequence[int] = SHOTS,
    l2: Sequence[float | int] = (L2,),
    seeds: Sequence[int] = (0, 1, 2),
) -> list[FewShot]:
    """Accuracy for every seed, number of shots and l2, in that order. Computed in float64; the answers are exact.

    A class with fewer images than shots is a DataError: big_vision takes all there are, and the result is no longer k-shot.
    """
    check_pair(train, test)
    check_grid(shots, "shots")
    check_grid(l2, "l2")
    _check_enough(train, max(shots))
    cells = []
    for seed in seeds:
        for count in shots:
            chosen = train.rows(choose(train.labels, train.classes, shots=count, seed=seed))
            right = Sweep(chosen, l2).right(test)
            cells += [
                FewShot(shots=count, l2=float(strength), seed=seed, images=len(chosen), right=hits, tested=len(test))
                for strength, hits in zip(l2, right, strict=True)
            ]
    return cells


def choose(labels: Int[Tensor, "N"], classes: int, *, shots: int, seed: int) -> Int[Tensor, "n"]:
    """Rows of one draw, class by class: the first ones of a numpy permutation of each class, as in big_vision."""
    draws = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels.cpu().numpy() == k) for k in range(classes)]
    return torch.from_numpy(np.concatenate([draws.permutation(rows)[:shots] for rows in of_class]))


class Sweep:
    """Ridge fits of one training set for many l2: one Cholesky factor each, of the smaller of XᵀX and XXᵀ.

    The whitened features have mean zero, so the bias feature is orthogonal to all of them and its weight is known
    apart: 100·ΣY / (100²·N + l2). Leaving it out of the matrix keeps that well conditioned; the solution is the same.
    """

    def __init__(self, train: Labelled, l2: Sequence[float | int]) -> None:
        features = train.features.double()
        self.l2 = torch.tensor(l2, dtype=torch.float64, device=features.device)
        self.mean = features.mean(0)
        X = features - self.mean
        self.scale = X.square().mean(0).sqrt() + 1e-5
        X /= self.scale
        Y = 2 * torch.nn.functional.one_hot(train.labels, train.classes).double() - 1
        self.bias = BIAS**2 * Y.sum(0) / (BIAS**2 * len(train) + self.l2[:, None])  # L K
        # (XᵀX + l2·I)⁻¹ XᵀY = Xᵀ (XXᵀ + l2·I)⁻¹ Y
        if len(train) >= train.width:
            self.weights = _ridges(X.T @ X, X.T @ Y, self.l2)
        else:
            self.weights = X.T @ _ridges(X @ X.T, Y, self.l2)
        """L D K, for whitened features"""

    def whiten(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return features.to(torch.float64, copy=True).sub_(self.mean).div_(self.scale)

    def scores(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "L B K"]:
        """Class scores of raw features, in float64."""
        return self.whiten(features) @ self.weights + self.bias[:, None]

    def right(self, test: Labelled) -> list[int]:
        """How many test images each l2 answers right; `_Fast` says how it runs in float32 and stays exact."""
        fast = _Fast(self)
        parts = zip(test.features.split(_CHUNK), test.labels.split(_CHUNK), strict=True)
        return torch.stack([fast.right(features, labels) for features, labels in parts]).sum(0).tolist()


def _ridges(
    gram: Float[Tensor, "n n"], targets: Float[Tensor, "n K"], l2: Float[Tensor, "L"]
) -> Float[Tensor, "L n K"]:
    """(gram + l2·I)⁻¹ targets for each l2."""
    solutions = []
    for strength in l2:
        shifted = gram.clone()
        shifted.diagonal().add_(strength)
        solutions.append(torch.cholesky_solve(targets, torch.linalg.cholesky(shifted)))
    return torch.stack(solutions)


class _Fast:
    """float64's answers at float32's price: score in float32 and low rank, bound the error, redo what that leaves open.

    Over a sweep the L matrices of weights change smoothly with l2: to `_LOW_RANK` they are mixtures of few, the
    principal components of their L×L Gram matrix. Only those few are multiplied with the images.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, exact = sweep, sweep.weights.flatten(1)
        size = exact.norm(dim=1, keepdim=True).clamp_min(1e-300)
        squares, vectors = torch.linalg.eigh(exact / size @ (exact / size).T)
        vectors = vectors[:, squares >= _LOW_RANK**2 * squares[-1]]  # L r, orthonormal
        mix, few = size * vectors, vectors.T @ (exact / size)
        missed = (exact - mix @ few).view_as(sweep.weights)
        few = few.view(-1, *sweep.weights.shape[1:])
        self.few, self.mix = few.transpose(1, 2).float().flatten(0, 1), mix.float()  # rK D, so that images come last
        # |error of a score| <= ‖z‖·(‖missed‖ + γ·Σ_p |mix|·‖few_p‖), with γ = (D + r + 2)·2⁻²⁴ for sums in float32
        # (Higham 2002, section 3.1); twice that, for the rounding of z and W themselves
        rounding = (len(sweep.mean) + len(few) + 2) * 2.0**-24 * mix.abs() @ few.norm(dim=1)
        self.error = (missed.norm(dim=1) + 2 * rounding).amax(1)  # L
        self.bias = sweep.bias.float()

    def right(self, features: Float[Tensor, "B D"], labels: Int[Tensor, "B"]) -> Int[Tensor, "L"]:
        whitened = self.sweep.whiten(features)
        few = (self.few @ whitened.float().T).view(self.mix.shape[1], -1)  # r KB
        scores = (self.mix @ few).view(len(self.mix), -1, len(labels)).add_(self.bias[:, :, None])  # L K B
        own = labels.expand(len(scores), 1, -1)
        margin = scores.gather(1, own)[:, 0] - scores.scatter_(1, own, -torch.inf).amax(1)
        slack = 2 * self.error[:, None] * whitened.norm(dim=1) + 1e-6 * self.sweep.bias.abs().amax(1)[:, None]
        right = margin > slack
        unsure = (margin.abs() <= slack).any(0)
        again = whitened[unsure] @ self.sweep.weights + self.sweep.bias[:, None]
        right[:, unsure] = again.argmax(2) == labels[unsure]
        return right.sum(1)


def _check_enough(train: Labelled, shots: int) -> None:
    counts = train.counts
    if int(counts.min()) < shots:
        smallest = int(counts.argmin())
        raise DataError(
            f"class {smallest} has {int(counts[smallest])} training images, too few for {shots} shots "
            f"({int((counts < shots).sum())} of {train.classes} classes are too small)",
            allowed=f"up to {int(counts.min())} shots here",
            next_step=f"ask for fewer shots, or leave small classes out: `at_least={shots}`",
        )
