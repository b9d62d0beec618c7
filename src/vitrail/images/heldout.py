"""Which images are held out: a drawn split put together again, or drawn with another share."""

from dataclasses import replace

import numpy as np

from vitrail.images.samples import Source, Splits, split


def join_split(splits: Splits) -> Source:
    """All images of a drawn split, in the order of the storage."""
    train, test = splits.train, splits.test
    order = np.argsort(np.concatenate([train.rows, test.rows]), kind="stable")
    keys = [*train.keys, *test.keys]
    return replace(
        train,
        labels=np.concatenate([train.labels, test.labels])[order],
        keys=[keys[index] for index in order],
        rows=np.concatenate([train.rows, test.rows])[order],
    )


def draw_again(splits: Splits, holdout: float, seed: int = 0) -> Splits:
    """The same images with another share held out; a split that the data brought along stays."""
    return split(join_split(splits), holdout, seed) if splits.drawn else splits
