"""Few-shot linear accuracy, as the ViT paper measures it (section 4.1): ridge regression to {-1, 1}^K in closed form.

The details are big_vision's `fewshot_lsr`: k images of each class; features whitened with their mean and standard
deviation; a constant feature of 100 as the bias; W = (XᵀX + l2·I)⁻¹ XᵀY with Y = ±1; the answer is the largest score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.evaluate.labelled import Labelled, Outcome, check_grid, check_pair

SHOTS = (1, 5, 10, 25)
L2 = 2.0**10  # big_vision's, for every data set
BIAS = 100.0
_CHUNK = 2048  # test images scored at once


@dataclass(frozen=True, kw_only=True)
class FewShot(Outcome):
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
    short: Literal["stop", "take all"] = "stop",
) -> list[FewShot]:
    """Accuracy for every seed, number of shots and l2, in that order. Computed in float64; the answers are exact.

    `short`: what to do where a class has fewer images than shots. big_vision takes all there are; here that is an error
    (DataError) unless asked for, since the result is no longer k-shot.
    """
    check_pair(train, test)
    check_grid(shots, "shots")
    check_grid(l2, "l2")
    if short == "stop":
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
    """Ridge fits of one training set for many l2, out of one eigendecomposition.

    The whitened features have mean zero, so the bias feature is orthogonal to all of them and its weight is known
    apart: 100·ΣY / (100²·N + l2). Leaving it out of the matrix keeps that well conditioned; the solution is the same.
    """

    def __init__(self, train: Labelled, l2: Sequence[float | int]) -> None:
        features = train.features.double()
        self.l2 = torch.tensor(l2, dtype=torch.float64, device=features.device)
        self.mean = features.mean(0)
        self.scale = features.std(0, correction=0) + 1e-5
        X = (features - self.mean) / self.scale
        Y = 2 * torch.nn.functional.one_hot(train.labels, train.classes).double() - 1
        self.bias = BIAS**2 * Y.sum(0) / (BIAS**2 * len(train) + self.l2[:, None])  # L K
        if len(train) >= train.width:
            self._values, self._vectors = torch.linalg.eigh(X.T @ X)
            self._targets = self._vectors.T @ (X.T @ Y)
        else:  # XᵀX = U S Uᵀ and XXᵀ = V S Vᵀ share S; Xᵀ(XXᵀ + l2·I)⁻¹Y needs only the smaller one
            self._values, V = torch.linalg.eigh(X @ X.T)
            self._vectors, self._targets = X.T @ V, V.T @ Y
        self._values = self._values.clamp(min=0)  # rounding may leave -1e-12

    def weights(self) -> Float[Tensor, "L D K"]:
        """For whitened features, one D × K matrix for each l2."""
        return self._vectors @ (self._targets / (self._values[:, None] + self.l2[:, None, None]))

    def whiten(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        return features.to(torch.float64, copy=True).sub_(self.mean).div_(self.scale)

    def scores(self, features: Float[Tensor, "B D"]) -> Float[Tensor, "L B K"]:
        """Class scores of raw features, in float64."""
        return self.whiten(features) @ self.weights() + self.bias[:, None]

    def right(self, test: Labelled) -> list[int]:
        """How many test images each l2 answers right; `_Fast` says how it runs in float32 and stays exact."""
        fast = _Fast(self)
        parts = zip(test.features.split(_CHUNK), test.labels.split(_CHUNK), strict=True)
        return torch.stack([fast.right(features, labels) for features, labels in parts]).sum(0).tolist()


class _Fast:
    """float64's answers at float32's price: score in float32 and low rank, bound the error, redo what that leaves open.

    Over the sweep 1 / (λ + l2) is a smooth function of l2, so the L matrices of weights are, to 1e-3, mixtures of few.
    With 1 / (λ_i + l2_l) ≈ Σ_p mix[l, p] · basis[p, i], only those few are multiplied with the images.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.exact = sweep, sweep.weights()
        size = sweep._targets.norm(dim=1) * sweep._vectors.norm(dim=0)
        inverse = 1 / (sweep._values + sweep.l2[:, None])  # L r
        left, singular, right = torch.linalg.svd(inverse * size, full_matrices=False)
        rank = int((singular > 1e-3 * singular[0]).sum())
        self.mix = left[:, :rank] * singular[:rank]
        basis = torch.where(size > 0, right[:rank] / size, 0.0)
        few = sweep._vectors @ (basis[:, :, None] * sweep._targets)  # rank D K
        missed = self.exact - (self.mix @ few.flatten(1)).view_as(self.exact)
        self.few, self.mix32 = few.float(), self.mix.float()
        # |error of a score| <= ‖z‖·(‖missed‖ + γ·Σ_p |mix|·‖few_p‖), with γ = (D + rank + 2)·2⁻²⁴ for sums in float32
        # (Higham 2002, section 3.1); twice that, for the rounding of z and W themselves
        rounding = (len(sweep.mean) + rank + 2) * 2.0**-24 * self.mix.abs() @ few.norm(dim=1)
        self.error = (missed.norm(dim=1) + 2 * rounding).amax(1)  # L
        self.bias32 = sweep.bias.float()

    def right(self, features: Float[Tensor, "B D"], labels: Int[Tensor, "B"]) -> Int[Tensor, "L"]:
        whitened = self.sweep.whiten(features)
        scores = (self.mix32 @ (whitened.float() @ self.few).flatten(1)).view(-1, len(labels), self.few.shape[2])
        scores += self.bias32[:, None]
        own = labels.expand(len(scores), -1)[:, :, None]
        margin = scores.gather(2, own)[:, :, 0] - scores.scatter(2, own, -torch.inf).amax(2)
        slack = 2 * self.error[:, None] * whitened.norm(dim=1) + 1e-6 * self.sweep.bias.abs().amax(1)[:, None]
        right = margin > slack
        for row, unsure in enumerate(margin.abs() <= slack):
            again = whitened[unsure] @ self.exact[row] + self.sweep.bias[row]
            right[row, unsure] = again.argmax(1) == labels[unsure]
        return right.sum(1)


def _check_enough(train: Labelled, shots: int) -> None:
    counts = train.counts
    if int(counts.min()) < shots:
        smallest = int(counts.argmin())
        raise DataError(
            f"class {smallest} has {int(counts[smallest])} training images, too few for {shots} shots "
            f"({int((counts < shots).sum())} of {train.classes} classes are too small)",
            allowed=f"up to {int(counts.min())} shots here",
            next_step="ask for fewer shots, or for short='take all' to use what there is",
        )
