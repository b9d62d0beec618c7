"""The head that fine-tuning starts from, and the cheap answers that a trained model should beat.

A new head on trained features sends noise into them in the first steps. Logistic regression on the frozen features is a
better start, and takes seconds: linear probing, then fine-tuning (Kumar et al. 2022, arXiv 2202.10054).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from vitrail.batches.loader import eval_batches
from vitrail.errors import ConfigError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.features import extract
from vitrail.evaluation.knn import knn
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.logistic import Fit, cross_validated
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.scores.classification import index_labels
from vitrail.training.setup import Setup

SIDE = 32
"""Raw pixels are compared at this many a side."""
NEIGHBOURS = 10
MOST = 20_000
"""Training images above which no baseline is computed."""


@dataclass(frozen=True)
class HeadStart:
    """What was measured before the first step."""

    baselines: dict[str, float] = field(default_factory=dict)
    """Accuracy of each cheap answer on the held-out images."""
    notes: tuple[str, ...] = ()


def head_start(setup: Setup) -> HeadStart:
    """Sets the head of `setup.model` where the run asks for it, and measures the baselines on the held-out images."""
    run, splits = setup.run, setup.splits
    wanted = run.head == "logistic"
    if not run.objective.reads_labels or splits.train.multi_label or (not wanted and len(splits.train) > MOST):
        return HeadStart()
    found = {"majority class": _majority(setup), "nearest neighbour, raw pixels": _pixels(setup)}
    if not run.weights:
        return HeadStart(found)
    train, held = (_features(setup, setup.model, source, run.preprocess) for source in (splits.train, splits.test))
    fit, expected = cross_validated(train, seed=run.seed)
    found["kNN on frozen features"] = _neighbours(train, held, NEIGHBOURS)
    found["logistic on frozen features"] = fit.right(held) / len(held)
    if not wanted:
        return HeadStart(found)
    set_head(setup.model, fit)
    return HeadStart(found, (f"head: logistic regression on frozen features ({expected:.1%} in cross-validation)",))


def set_head(model: Any, fit: Fit) -> None:
    """Puts the fitted weights into the model's head. Raises ConfigError for a head that is not one linear layer."""
    head = getattr(model, "head", None)
    if not isinstance(head, nn.Linear) or head.weight.shape != fit.weight.T.shape:
        raise ConfigError("head = 'logistic' on a model without a linear head", allowed="head = 'zero'")
    with torch.no_grad():
        head.weight.copy_(fit.weight.T)
        head.bias.copy_(fit.bias)


def _features(setup: Setup, model: nn.Module, source: Source, preprocess: Preprocess) -> Labelled:
    """The model's pooled features of every image that can be read, as evaluation sees it."""
    settings = setup.run.hardware
    batches = eval_batches(
        source, preprocess=preprocess, batch_size=2 * setup.micro_batch, workers=settings.workers, strict=False
    )
    found = extract(model, batches, what="features", preprocess=preprocess, precision=settings.precision)
    return labelled(
        found.features, index_labels(found.targets.numpy(), source.classes, setup.classes), len(setup.classes)
    )


def _pixels(setup: Setup) -> float:
    """One neighbour by the cosine of centred pixels, SIDE pixels a side at most."""
    height, width = setup.run.preprocess.size
    small = replace(setup.run.preprocess, size=(min(SIDE, height), min(SIDE, width)))
    model, splits = Pixels(small.size, small.channels), setup.splits
    train, test = (_features(setup, model, source, small) for source in (splits.train, splits.test))
    return _neighbours(train, test, 1)


def _neighbours(train: Labelled, test: Labelled, k: int) -> float:
    """By the cosine of features centred on the training images."""
    mean = train.features.mean(0)
    train, test = (replace(data, features=data.features - mean) for data in (train, test))
    return knn(train, test, k=[min(k, len(train))])[0].accuracy


def _majority(setup: Setup) -> float:
    splits = setup.splits
    targets = index_labels(splits.test.labels, splits.test.classes, setup.classes)
    return float((targets == int(splits.train.counts.argmax())).float().mean())
