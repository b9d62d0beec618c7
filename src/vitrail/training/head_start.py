"""The head that fine-tuning starts from, and the cheap answers that a trained model should beat.

A new head on trained features sends noise into them in the first steps. Logistic regression on the frozen features, or ridge
regression where images have numbers, is a better start, and takes seconds: linear probing, then fine-tuning (Kumar et al.
2022, arXiv 2202.10054).
"""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import normalize

from vitrail.batches.loader import eval_batches
from vitrail.errors import ConfigError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.features import extract
from vitrail.evaluation.knn import knn
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.logistic import Fit, cross_validated
from vitrail.evaluation.neighbours import nearest
from vitrail.evaluation.ridge import ridge
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.objectives.objective import Learner
from vitrail.objectives.regress import Regress
from vitrail.scores.classification import index_labels
from vitrail.training.setup import Setup

NEIGHBOURS = 10
MIRRORS = 2_000
"""Images that are compared with their mirror images, at most."""
MOST = 20_000
"""Training images above which no baseline is computed."""
SIDE = 32
"""Raw pixels are compared at this many a side."""
MIRRORED = 0.8
"""Images are flipped in training unless their mirror images are right so much less often, or as much farther off."""


@dataclass(frozen=True)
class HeadStart:
    """The run after its head start, and the measured baselines."""

    setup: Setup
    """Ready to train: the head set, flips decided."""
    baselines: dict[str, float] = field(default_factory=dict)
    """Accuracy of each cheap answer on the held-out images, or its mean error."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Valued:
    """N images as the features a model made of them, and their numbers."""

    features: Float[Tensor, "N D"]
    labels: Float[Tensor, "N"]

    def rows(self, index: Int[Tensor, "n"]) -> "Valued":
        return Valued(self.features[index], self.labels[index])


def head_start(setup: Setup) -> HeadStart:
    """Sets the head of `setup.model` and decides on flips where the run asks for it; measures the baselines on the
    held-out images.
    """
    run, splits = setup.run, setup.splits
    if not run.objective.reads_labels or splits.train.multi_label:
        return HeadStart(setup)
    few, numeric, notes = len(splits.train) <= MOST, splits.train.numeric, list[str]()
    found = _answer_always(setup) if len(splits.test) else {}
    if few:
        train = _read_pixels(setup, splits.train)
        train = train.rows(torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(run.seed)))
        found |= _answer_by_pixels(setup, train) if len(splits.test) else {}
        if run.augment.flip and run.check_flips and not looks_alike_mirrored(train, run.preprocess.channels):
            run = replace(run, augment=replace(run.augment, flip=False))
            notes.append(f"no flips: mirrored images look like other {'numbers' if numeric else 'classes'}")
    if run.weights and setup.unsharded is None and (run.head == "logistic" or (few and not numeric)):
        fit, said, answers = (_fit_ridge if numeric else _fit_logistic)(setup)
        found |= answers
        if run.head == "logistic":
            set_head(setup.model, fit)
            notes.append(said)
    return HeadStart(replace(setup, run=run), found, tuple(notes))


def _answer_always(setup: Setup) -> dict[str, float]:
    """The same answer to every image."""
    train, test = setup.splits.train, setup.splits.test
    if train.numeric:
        truth = torch.from_numpy(test.labels)[:, 0]
        return {"always the mean": float((truth - float(train.labels.mean())).abs().mean())}
    targets = index_labels(test.labels, test.classes, setup.classes)
    return {"majority class": float((targets == int(train.counts.argmax())).float().mean())}


def _answer_by_pixels(setup: Setup, train: Labelled | Valued) -> dict[str, float]:
    """The answer of the most similar training images, by the cosine of pixels centred on all of them."""
    test, mean = _read_pixels(setup, setup.splits.test), train.features.mean(0)
    k = min(NEIGHBOURS, len(train.labels)) if isinstance(train, Valued) else 1
    near = train.labels[nearest(test.features - mean, train.features - mean, k=k).index]
    if isinstance(train, Valued):
        return {"nearest neighbours, raw pixels": float((near.mean(1) - test.labels).abs().mean())}
    return {"nearest neighbour, raw pixels": int((near[:, 0] == test.labels).sum()) / len(test.labels)}


def looks_alike_mirrored(pixels: Labelled | Valued, channels: int) -> bool:
    """Whether the nearest other image of a mirrored image has its class nearly as often as that of the image itself;
    or a number that is nearly as close.
    """
    features, labels = pixels.features[:MIRRORS], pixels.labels[:MIRRORS]
    side = int((features.shape[1] // channels) ** 0.5)
    images = features.view(len(features), -1, side, channels)  # the pixels are square, as `_read_pixels` makes them
    mean, near = features.mean(0), []
    bank = normalize(features - mean)
    for queries in (images, images.flip(2)):
        similarity = normalize(queries.flatten(1) - mean) @ bank.T
        near.append(labels[similarity.fill_diagonal_(-2).argmax(1)])
    if isinstance(pixels, Valued):
        plain, mirrored = ((answers - labels).abs().mean() for answers in near)
        return bool(mirrored <= plain / MIRRORED)
    plain, mirrored = ((answers == labels).sum() for answers in near)
    return bool(mirrored >= MIRRORED * plain)


def _fit_logistic(setup: Setup) -> tuple[Fit, str, dict[str, float]]:
    """A head of classes on frozen features, a sentence on it, and baselines."""
    run, splits = setup.run, setup.splits
    model = run.objective.model_of(setup.model)
    train = _label(setup, read_features(setup, model, splits.train), splits.train)
    fit, expected = cross_validated(train, seed=run.seed)
    said = f"head: logistic regression on frozen features ({expected:.1%} in cross-validation)"
    if not len(splits.test):
        return fit, said, {}
    test = _label(setup, read_features(setup, model, splits.test), splits.test)
    centred = (replace(data, features=data.features - train.features.mean(0)) for data in (train, test))
    near = knn(*centred, k=[min(NEIGHBOURS, len(train))])[0].accuracy
    return fit, said, {"kNN on frozen features": near, "logistic on frozen features": fit.right(test) / len(test)}


def _fit_ridge(setup: Setup) -> tuple[Fit, str, dict[str, float]]:
    """The same for numbers."""
    objective, splits = setup.run.objective, setup.splits
    assert isinstance(objective, Regress)
    train = read_features(setup, setup.model, splits.train)
    fit, expected = ridge(train.features, objective.standardise(train.labels))
    said = f"head: ridge regression on frozen features (mean error {expected * objective.std:.4g}, each image left out once)"
    if not len(splits.test):
        return fit, said, {}
    test = read_features(setup, setup.model, splits.test)
    answers = objective.mean + objective.std * fit.answers(test.features)
    return fit, said, {"ridge on frozen features": float((answers - test.labels).abs().mean())}


def set_head(model: Any, fit: Fit) -> None:
    """Puts the fitted weights into the model's head. Raises ConfigError for a head that is not one linear layer."""
    head = getattr(model, "head", None)
    if isinstance(model, Learner) or not isinstance(head, nn.Linear) or head.weight.shape != fit.weight.T.shape:
        raise ConfigError("head = 'logistic' where no linear head is trained", allowed="head = 'zero'")
    with torch.no_grad():
        head.weight.copy_(fit.weight.T)
        head.bias.copy_(fit.bias)


def read_features(setup: Setup, model: nn.Module, source: Source, preprocess: Preprocess | None = None) -> FeatureTable:
    """The model's pooled features of every image that can be read, as evaluation sees it."""
    settings, preprocess = setup.run.hardware, preprocess or setup.run.preprocess
    batches = eval_batches(
        source, preprocess=preprocess, batch_size=2 * setup.micro_batch, workers=settings.workers, strict=False
    )
    return extract(model, batches, what="features", preprocess=preprocess, precision=settings.precision)


def _read_pixels(setup: Setup, source: Source) -> Labelled | Valued:
    """The images as the model sees them, at most SIDE pixels a side."""
    side = min(SIDE, *setup.run.preprocess.size)
    small = replace(setup.run.preprocess, size=(side, side), resize="squash")
    return _label(setup, read_features(setup, Pixels(small.size, small.channels), source, small), source)


def _label(setup: Setup, table: FeatureTable, source: Source) -> Any:
    """The features with their numbers, or with their labels as the model counts its classes."""
    if source.numeric:
        return Valued(table.features.float(), table.labels[:, 0].float())
    labels = index_labels(table.labels.numpy(), source.classes, setup.classes)
    return labelled(table.features, labels, len(setup.classes))
