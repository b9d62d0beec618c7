"""What a study reads of a trained model: frozen features by few-shot, neighbours or a linear probe; and more by plug-in."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitrail.batches.loader import eval_batches
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.features import extract
from vitrail.evaluation.fewshot import few_shot
from vitrail.evaluation.knn import knn
from vitrail.evaluation.linear import linear_probe
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data
from vitrail.registry import Registry
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


Readout = Callable[[Trained], dict[str, float]]


def _few_shot(trained: Trained) -> dict[str, float]:
    train_set, test = trained.features
    shots = min(5, int(train_set.counts.min()))
    return {"5-shot": float(np.mean([cell.accuracy for cell in few_shot(train_set, test, shots=(shots,))]))}


def _neighbours(trained: Trained) -> dict[str, float]:
    train_set, test = trained.features
    return {"10-NN": knn(train_set, test, k=(min(10, len(train_set)),))[0].accuracy}


def _linear(trained: Trained) -> dict[str, float]:
    return {"linear": linear_probe(*trained.features).accuracy}


READOUTS = Registry[Readout]("readout", {"5-shot": _few_shot, "10-NN": _neighbours, "linear": _linear})


def read_out(trained: Trained, names: Sequence[str]) -> dict[str, float]:
    """The numbers of these readouts. `NAME@DATA` reads the model with other labelled images."""
    found: dict[str, float] = {}
    others: dict[str, Trained] = {"": trained}
    for name in names:
        readout, _, data = name.partition("@")
        if data not in others:
            others[data] = Trained(trained.weights, open_data(data))
        numbers = READOUTS[readout](others[data])
        found |= {f"{number}@{data}" if data else number: value for number, value in numbers.items()}
    return found


def features_of(model: Any, source: Source, most: int = MOST) -> Labelled:
    """Features of the source's images, evenly chosen where there are more than `most`."""
    if len(source) > most:
        source = source.subset(np.linspace(0, len(source) - 1, most, dtype=np.int64))
    batches = eval_batches(source, preprocess=model.record.preprocess, batch_size=512)
    found = extract(model, batches, what="features")
    return labelled(found.features, found.labels, len(source.classes))
