"""Numbers that a study reads of a trained model: frozen features by few-shot, neighbours or a linear probe; and more by plug-in."""

from collections.abc import Callable, Sequence

import numpy as np

from vitrail.evaluation.fewshot import few_shot
from vitrail.evaluation.knn import knn
from vitrail.evaluation.linear import linear_probe
from vitrail.images.sources import open_data
from vitrail.registry import Registry
from vitrail.study.perturb import measure_cost, read_shifts, shuffle_accuracy
from vitrail.study.trained import Trained

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


READOUTS = Registry[Readout](
    "readout",
    {
        "5-shot": _few_shot,
        "10-NN": _neighbours,
        "linear": _linear,
        "shuffled patches": shuffle_accuracy,
        "shifts": read_shifts,
        "speed": measure_cost,
    },
)


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
