"""Which images are held out: a drawn split put together again, drawn with another share, or with validation images; and
how often an epoch shows the others."""

from dataclasses import replace

import numpy as np

from vitrail.errors import ConfigError
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


def add_validation(splits: Splits, share: float, seed: int = 1) -> Splits:
    """The same with so many of the training images of every class as validation images; a validation part stays."""
    if splits.val is not None:
        return splits
    parts = split(splits.train, share, seed)
    how = f"{splits.how}; {len(parts.test):,} training images are validation images: they choose the best weights"
    return replace(splits, train=parts.train, val=parts.test, how=how)


def repeat_rare(source: Source) -> Source:
    """Every class as often as the largest: its images in turn, until there are so many. For balanced sampling."""
    if source.multi_label:
        raise ConfigError("balanced sampling of images with several labels", allowed="balance = 'none'")
    members = [np.flatnonzero(source.labels == k) for k in range(len(source.classes))]
    most = max(len(rows) for rows in members)
    return source.subset(np.sort(np.concatenate([np.resize(rows, most) for rows in members if len(rows)])))
