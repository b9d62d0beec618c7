"""Parts of a training set: a share of every class, or so many images with classes as equal as they can be.

Both take the first images of one order per class, drawn by a seed: a smaller part lies inside each larger one.
"""

import numpy as np
from jaxtyping import Int64

from vitrail.errors import DataError
from vitrail.images.samples import Source


def take_share(source: Source, share: float, seed: int) -> Source:
    """A share of every class, one image at least."""
    rows = _orders(source, seed)
    return source.subset(np.sort(np.concatenate([members[: max(1, round(share * len(members)))] for members in rows])))


def take_number(source: Source, images: int, seed: int) -> Source:
    """So many images, as many of each class as there are. Raises DataError for more than the set has."""
    if not 0 < images <= len(source):
        raise DataError(f"{images:,} images of {source.name}", allowed=f"1 to {len(source):,}")
    orders = _orders(source, seed)
    turns = np.concatenate([np.arange(len(members)) for members in orders])
    return source.subset(np.sort(np.concatenate(orders)[np.argsort(turns, kind="stable")[:images]]))


def _orders(source: Source, seed: int) -> list[Int64[np.ndarray, "_"]]:
    """The images of each class in an order of the seed."""
    random = np.random.default_rng(seed)
    return [random.permutation(np.flatnonzero(source.labels == label)) for label in range(len(source.classes))]
