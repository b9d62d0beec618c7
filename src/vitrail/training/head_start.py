"""The head that fine-tuning starts from, and the cheap answers that a trained model should beat.

A new head on trained features sends noise into them in the first steps. Logistic regression on the frozen features is a
better start, and takes seconds: linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import normalize

from vitrail.errors import ConfigError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.knn import knn
from vitrail.evaluation.logistic import Fit, cross_validated
from vitrail.images.samples import Source
from vitrail.objectives.objective import Learner
from vitrail.scores.classification import index_labels
from vitrail.training import number_start
from vitrail.training.frozen import read_features, read_pixels
from vitrail.training.setup import Setup

NEIGHBOURS = 10
MIRRORS = 2_000
"""Images that are compared with their mirror images, at most."""
MOST = 20_000
"""Training images above which no baseline is computed."""


MIRRORED = 0.8
"""Images are flipped in training unless their mirror images are right so much less often."""


@dataclass(frozen=True)
class HeadStart:
    """The run after its head start, and the measured baselines."""

    setup: Setup
    """Ready to train: the head set, flips decided."""
    baselines: dict[str, float] = field(default_factory=dict)
    """Accuracy of each cheap answer on the held-out images."""
    notes: tuple[str, ...] = ()


def head_start(setup: Setup) -> HeadStart:
    """Sets the head of `setup.model` and decides on flips where the run asks for it; measures the baselines on the
    held-out images.
    """
    run, splits = setup.run, setup.splits
    if not run.objective.reads_labels or splits.train.multi_label:
        return HeadStart(setup)
    if splits.train.numeric:
        return _number_start(setup)
    notes: list[str] = []
    found = {"majority class": _majority(setup)} if len(splits.test) else {}
    if len(splits.train) <= MOST:
        train, test = _pixels(setup)
        if test:
            found["nearest neighbour, raw pixels"] = _neighbours(train, test, 1)
        if run.augment.flip and run.check_flips and not looks_alike_mirrored(train, run.preprocess.channels):
            run = replace(run, augment=replace(run.augment, flip=False))
            notes.append("no flips: mirrored images look like other classes")
    if run.weights and setup.unsharded is None and (run.head == "logistic" or len(splits.train) <= MOST):
        fit, expected, answers = _frozen(setup)
        found |= answers
        if run.head == "logistic":
            set_head(setup.model, fit)
            notes.append(f"head: logistic regression on frozen features ({expected:.1%} in cross-validation)")
    return HeadStart(replace(setup, run=run), found, tuple(notes))


def _number_start(setup: Setup) -> HeadStart:
    """The same for numbers."""
    run, notes, few = setup.run, list[str](), len(setup.splits.train) <= MOST
    pixels = number_start.known(read_pixels(setup, setup.splits.train)) if few else None
    found = dict(number_start.baselines(setup, pixels)) if len(setup.splits.test) else {}
    asked = pixels if run.augment.flip and run.check_flips else None
    if asked and not number_start.looks_alike_mirrored(asked, run.preprocess.channels):
        run = replace(run, augment=replace(run.augment, flip=False))
        notes.append("no flips: mirrored images look like other numbers")
    if run.weights and setup.unsharded is None and run.head == "logistic":
        said, more = number_start.start_head(setup)
        notes.append(said)
        found |= more
    return HeadStart(replace(setup, run=run), found, tuple(notes))


def looks_alike_mirrored(pixels: Labelled, channels: int) -> bool:
    """Whether a mirrored image's nearest neighbour among the other images is of its class nearly as often as its own."""
    features = pixels.features[:MIRRORS]
    side = int((features.shape[1] // channels) ** 0.5)
    images = features.view(len(features), -1, side, channels)  # the pixels are square, as `_pixels` makes them
    labels, mean = pixels.labels[: len(features)], features.mean(0)
    bank = normalize(features - mean)
    right = []
    for queries in (images, images.flip(2)):
        similarity = normalize(queries.flatten(1) - mean) @ bank.T
        right.append((labels[similarity.fill_diagonal_(-2).argmax(1)] == labels).sum())
    return bool(right[1] >= MIRRORED * right[0])


def _frozen(setup: Setup) -> tuple[Fit, float, dict[str, float]]:
    """The head fitted on frozen features, its accuracy in cross-validation, and baselines."""
    run, splits = setup.run, setup.splits
    model = run.objective.model_of(setup.model)
    train = _features(setup, read_features(setup, model, splits.train), splits.train)
    fit, expected = cross_validated(train, seed=run.seed)
    if not len(splits.test):
        return fit, expected, {}
    test = _features(setup, read_features(setup, model, splits.test), splits.test)
    near = _neighbours(train, test, NEIGHBOURS)
    right = {"kNN on frozen features": near, "logistic on frozen features": fit.right(test) / len(test)}
    return fit, expected, right


def set_head(model: Any, fit: Fit) -> None:
    """Puts the fitted weights into the model's head. Raises ConfigError for a head that is not one linear layer."""
    head = getattr(model, "head", None)
    if isinstance(model, Learner) or not isinstance(head, nn.Linear) or head.weight.shape != fit.weight.T.shape:
        raise ConfigError("head = 'logistic' where no linear head is trained", allowed="head = 'zero'")
    with torch.no_grad():
        head.weight.copy_(fit.weight.T)
        head.bias.copy_(fit.bias)


def _features(setup: Setup, table: FeatureTable, source: Source) -> Labelled:
    """The features with their labels as the model counts its classes."""
    labels = index_labels(table.labels.numpy(), source.classes, setup.classes)
    return labelled(table.features, labels, len(setup.classes))


def _pixels(setup: Setup) -> tuple[Labelled, Labelled | None]:
    """The images of the training and the test part as the model sees them, small, in random order."""
    splits = setup.splits
    train = _features(setup, read_pixels(setup, splits.train), splits.train)
    test = _features(setup, read_pixels(setup, splits.test), splits.test) if len(splits.test) else None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(setup.run.seed))
    return train.rows(order), test


def _neighbours(train: Labelled, test: Labelled, k: int) -> float:
    """By the cosine of features centred on the training images."""
    mean = train.features.mean(0)
    train, test = (replace(data, features=data.features - mean) for data in (train, test))
    return knn(train, test, k=[min(k, len(train))])[0].accuracy


def _majority(setup: Setup) -> float:
    splits = setup.splits
    targets = index_labels(splits.test.labels, splits.test.classes, setup.classes)
    return float((targets == int(splits.train.counts.argmax())).float().mean())
