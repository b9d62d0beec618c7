"""Features of images whose classes are known: what every protocol reads, checked once, here."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.scores.finite import check_finite


@dataclass(frozen=True, eq=False)
class Labelled:
    """N images as the features a model made of them, and their classes. Made by `labelled`, which checks."""

    features: Float[Tensor, "N D"]
    labels: Int[Tensor, "N"]
    classes: int

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def width(self) -> int:
        return self.features.shape[1]

    def rows(self, index: Any) -> "Labelled":
        return Labelled(self.features[index], self.labels[index], self.classes)

    @property
    def counts(self) -> Int[Tensor, "K"]:
        """Images of each class."""
        return torch.bincount(self.labels, minlength=self.classes)


@dataclass(frozen=True, kw_only=True)
class Tally:
    """The result of a protocol with one setting: how many of the test images it answered right."""

    right: int
    tested: int

    @property
    def accuracy(self) -> float:
        return self.right / self.tested


def labelled(features: Any, labels: Any, classes: int | None = None) -> Labelled:
    """Features N D and labels N (tensors or arrays, on any device) as one checked value. `classes` is K;
    without it, the largest label + 1.

    Raises DataError for shapes that do not fit, unlabelled images, labels outside the classes and fewer than two
    classes. Raises NonFiniteError for features that are NaN or infinite.
    """
    features, labels = _tensor(features), _tensor(labels)
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels):
        raise DataError(
            f"features {tuple(features.shape)} and labels {tuple(labels.shape)}", allowed="N × D features and N labels"
        )
    if not len(labels) or not features.shape[1]:
        raise DataError("there are no features", next_step="check the data you named")
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"labels of type {labels.dtype}", allowed="whole numbers, the index of each image's class")
    labels = labels.long()
    _check_labels(labels, classes)
    features = features if features.dtype in (torch.float32, torch.float64) else features.float()
    check_finite(features, what="the features of")
    return Labelled(features, labels, int(labels.max()) + 1 if classes is None else classes)


def check_pair(train: Labelled, test: Labelled) -> None:
    """Raises DataError unless both can come from one model and one set of classes, of which two or more are there."""
    if len(train) and (train.labels == train.labels[0]).all():
        raise DataError(
            "all training images are of one class", allowed="two classes or more", next_step="check the labels"
        )
    if train.width != test.width:
        raise DataError(
            f"the training features are {train.width} wide, the test features {test.width}",
            next_step="make both with the same model and layer",
        )
    if train.classes != test.classes:
        raise DataError(
            f"the training set has {train.classes} classes, the test set {test.classes}",
            next_step="give both the same list of classes",
        )


def check_grid(values: Sequence[float | int], name: str) -> None:
    """Raises DataError for an empty grid or one with a value that is not above zero."""
    if not values or any(not value > 0 for value in values):
        raise DataError(f"{name} = {tuple(values)}", allowed="one or more numbers above zero")


def _tensor(values: Any) -> Tensor:
    if isinstance(values, Tensor):
        return values.detach()
    try:
        return torch.from_numpy(np.array(values))  # a copy: torch does not like arrays that cannot be written
    except TypeError as error:
        raise DataError(f"features or labels that are no numbers ({error})") from None


def _check_labels(labels: Int[Tensor, "N"], classes: int | None) -> None:
    unlabelled = int((labels < 0).sum())
    if unlabelled:
        raise DataError(
            f"{unlabelled} of {len(labels)} images have no label",
            next_step="this protocol needs the class of every image: label them, or leave them out",
        )
    found = int(labels.max()) + 1
    if classes is not None and found > classes:
        raise DataError(f"a label {found - 1} among {classes} classes", allowed=f"0 to {classes - 1}")
    if (classes or found) < 2:
        raise DataError("there is only one class", allowed="two or more", next_step="check the labels")
