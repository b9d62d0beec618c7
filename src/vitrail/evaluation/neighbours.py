"""Most similar images and near-duplicates by cosine: exact, in chunks of bounded memory."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from vitrail.errors import DataError
from vitrail.images.exact_duplicates import Joined
from vitrail.scores.finite import check_finite

_CELLS = 1 << 24
"""Similarities held at once: 64 MiB in float32."""
SAME = 1e-5
"""Cosines this near are equal: copies have no nearest among them."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each query its k most similar images, the most similar first."""

    similarity: Float[Tensor, "B k"]
    index: Int[Tensor, "B k"]


@dataclass(frozen=True)
class Pair:
    """Two images, first < second, and the cosine of their features."""

    first: int
    second: int
    similarity: float


def nearest(queries: Float[Tensor, "B D"], bank: Float[Tensor, "N D"], *, k: int) -> Nearest:
    """The k images of the bank that are most similar to each query."""
    parts = list(nearest_chunks(queries, bank, k=k))
    return Nearest(torch.cat([part.similarity for part in parts]), torch.cat([part.index for part in parts]))


def nearest_chunks(queries: Float[Tensor, "B D"], bank: Float[Tensor, "N D"], *, k: int) -> Iterator[Nearest]:
    """The same in order, some queries at a time. Raises DataError for a k that the bank cannot give, or another
    width.
    """
    if not 1 <= k <= len(bank):
        raise DataError(f"k = {k}", allowed=f"1 to {len(bank)}, the number of images to search")
    if queries.shape[1] != bank.shape[1]:
        raise DataError(
            f"queries {queries.shape[1]} wide and a bank {bank.shape[1]} wide",
            next_step="make both with the same model",
        )
    check_finite(bank, what="the features of")
    check_finite(queries, what="the features of")
    bank = normalize(bank).T
    for part in queries.split(max(1, _CELLS // bank.shape[1])):
        top = (normalize(part) @ bank).topk(k, dim=1)
        yield Nearest(top.values, top.indices)


def near_duplicates(features: Float[Tensor, "N D"], *, threshold: float = 0.95, limit: int = 1_000_000) -> list[Pair]:
    """All pairs at least `threshold` similar, the most similar first. Raises DataError when there are more than
    `limit`.
    """
    if not -1 <= threshold <= 1:
        raise DataError(f"threshold = {threshold}", allowed="a cosine between -1 and 1", next_step="try 0.95")
    check_finite(features, what="the features of")
    unit, found = normalize(features), []
    total = 0
    rows = max(1, _CELLS // max(len(unit), 1))
    for start in range(0, len(unit), rows):
        block = unit[start : start + rows] @ unit[start:].T  # what is left of the diagonal was seen before
        i, j = block.ge(threshold).triu(1).nonzero(as_tuple=True)
        total += len(i)
        if total > limit:
            raise DataError(
                f"more than {limit:,} pairs are {threshold:g} similar or more", next_step="raise the threshold"
            )
        found.append(torch.stack([i + start, j + start, block[i, j]], dim=1).double())
    pairs = torch.cat(found) if found else torch.zeros(0, 3)
    order = torch.argsort(-pairs[:, 2], stable=True)
    return [Pair(int(i), int(j), similarity) for i, j, similarity in pairs[order].tolist()]


def mutual_pairs(features: Float[Tensor, "N D"], *, threshold: float = 0.95) -> list[Pair]:
    """Pairs that are `threshold` similar and of which no other image is nearer to either, the most similar first.

    Of N images there are about N / 2, whatever the features. Of fine-tuned features a quarter of all pairs may have a cosine
    above 0.95: there a threshold alone says nothing.
    """
    if len(features) < 2:
        return []
    near = nearest(features, features, k=2)
    rows = torch.arange(len(features))
    is_self = near.index == rows[:, None]
    is_self[:, 1] |= ~is_self.any(1)  # of several copies the image itself may not be among the two
    other, best = near.index[~is_self], near.similarity[~is_self]
    found = {
        (min(first, second), max(first, second)): float(best[first])
        for first, second in enumerate(other.tolist())
        if best[first] >= max(threshold, float(best[second]) - SAME)
    }
    return [Pair(*ends, similarity) for ends, similarity in sorted(found.items(), key=lambda pair: -pair[1])]


def typical_cosine(features: Float[Tensor, "N D"]) -> float:
    """The median cosine of two images, over pairs of at most 1,000 images evenly taken."""
    few = normalize(features[torch.linspace(0, len(features) - 1, min(1000, len(features))).round().long()])
    pairs = (few @ few.T)[torch.ones(len(few), len(few), dtype=torch.bool).triu(1)]
    return float(pairs.median()) if len(pairs) else 1.0


def groups(pairs: list[Pair]) -> list[list[int]]:
    """Images joined by pairs, directly or through others: sorted, the largest group first."""
    return sorted(Joined((pair.first, pair.second) for pair in pairs).groups(), key=lambda group: (-len(group), group))
