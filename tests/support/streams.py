"""Batches as a list, compared and joined."""

import torch

from vitrail.batches.loader import Batch, train_batches
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.images.transforms import Augment

SMALL = Preprocess(size=(24, 32))
CROPS = Augment(crop_area=(0.2, 1.0), flip=True, jitter=0.3, randaugment=(2, 9), erase=0.3)


def stream(source: Source, start: int = 0, stop: int = 180, **changes) -> list[Batch]:
    settings = dict(preprocess=SMALL, augment=CROPS, seed=3, batch_size=20, start=start, stop=stop) | changes
    return list(train_batches(source, **settings))


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.images, b.images) and torch.equal(a.targets, b.targets) and a.keys == b.keys
        for a, b in zip(one, other, strict=True)
    )


def joined(parts: list[Batch]) -> Batch:
    return Batch(
        torch.cat([part.images for part in parts]),
        torch.cat([part.targets for part in parts]),
        tuple(key for part in parts for key in part.keys),
    )
