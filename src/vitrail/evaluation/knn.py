"""k nearest neighbours, weighted as DINO does: cosine similarity s, a vote of exp(s / τ) for each neighbour's class.

Caron et al. 2021 (arXiv 2104.14294), appendix F.1 and DINOv2's evaluation: k of 10, 20, 100 and 200, τ = 0.07.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vitrail.errors import DataError
from vitrail.evaluation.feature_set import Labelled, Tally, check_grid, check_pair
from vitrail.evaluation.neighbours import nearest_chunks

K = (10, 20, 100, 200)
TEMPERATURE = 0.07


@dataclass(frozen=True, kw_only=True)
class Knn(Tally):
    """The accuracy with k neighbours."""

    k: int


def knn(train: Labelled, test: Labelled, *, k: Sequence[int] = K, temperature: float = TEMPERATURE) -> list[Knn]:
    """Accuracy for every k, in one search for the largest. Raises DataError for a k above the number of training
    images.
    """
    check_pair(train, test)
    check_grid(k, "k")
    check_grid([temperature], "temperature")
    if max(k) > len(train):
        raise DataError(f"k = {max(k)}", allowed=f"up to {len(train)}, the number of training images")
    right = torch.zeros(len(k), dtype=torch.long, device=test.labels.device)
    start = 0
    for near in nearest_chunks(test.features, train.features, k=max(k)):
        labels = test.labels[start : start + len(near.index)]
        start += len(labels)
        # the softmax over all neighbours is exp(s / τ) but for a factor, and cannot overflow
        weight = (near.similarity / temperature).softmax(1)
        votes = weight.new_zeros(len(labels), train.classes)
        seen = 0
        for row, count in sorted(enumerate(k), key=lambda pair: pair[1]):
            votes.scatter_add_(1, train.labels[near.index[:, seen:count]], weight[:, seen:count])
            seen = count
            right[row] += (votes.argmax(1) == labels).sum()
    return [Knn(k=count, right=hits, tested=len(test)) for count, hits in zip(k, right.tolist(), strict=True)]
