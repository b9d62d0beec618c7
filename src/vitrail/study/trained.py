"""A trained model of a cell, with the images that it is read with."""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitrail.batches.loader import eval_batches
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.features import extract
from vitrail.images.samples import Source, Splits
from vitrail.weights.bundle import load

MOST = 10_000
"""Images of a set whose features are read, evenly chosen."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained model, and the images that it is read with."""

    weights: str
    splits: Splits

    @functools.cached_property
    def model(self) -> Any:
        return load(self.weights)

    @functools.cached_property
    def features(self) -> tuple[Labelled, Labelled]:
        """Of training and held-out images."""
        train_set, test = (features_of(self.model, source) for source in (self.splits.train, self.splits.test))
        return train_set, test


def features_of(model: Any, source: Source, most: int = MOST) -> Labelled:
    """Features of the source's images, evenly chosen where there are more than `most`."""
    if len(source) > most:
        source = source.subset(np.linspace(0, len(source) - 1, most, dtype=np.int64))
    batches = eval_batches(source, preprocess=model.record.preprocess, batch_size=512)
    found = extract(model, batches, what="features")
    return labelled(found.features, found.labels, len(source.classes))
