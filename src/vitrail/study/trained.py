"""A trained model of a cell, with the images that it is read with."""

import functools
from dataclasses import dataclass
from typing import Any

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
        train_set, test = map(self._features_of, (self.splits.train, self.splits.test))
        return train_set, test

    def _features_of(self, source: Source) -> Labelled:
        batches = eval_batches(source.thin(MOST), preprocess=self.model.record.preprocess, batch_size=512)
        found = extract(self.model, batches, what="features")
        return labelled(found.features, found.labels, len(source.classes))
