"""The start of a run on numbers: a head by ridge regression, and the cheap answers that the model should beat."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.ridge import ridge
from vitrail.objectives.regress import Regress
from vitrail.training.frozen import read_features, read_pixels
from vitrail.training.setup import Setup

NEIGHBOURS = 10
MIRRORED = 1.25
"""Images are flipped in training unless the neighbours of their mirror images are so many times worse."""


@dataclass(frozen=True)
class Known:
    """Features of images and their numbers."""

    features: Float[Tensor, "N D"]
    values: Float[Tensor, "N"]

    def nearest(self, queries: Float[Tensor, "M D"], k: int, *, itself: bool = False) -> Float[Tensor, "M"]:
        """The mean number of the k nearest, by the cosine of centred features; with `itself` query i is not image i."""
        mean = self.features.mean(0)
        near = normalize(queries - mean) @ normalize(self.features - mean).T
        near = near.fill_diagonal_(-2) if itself else near
        return self.values[near.topk(min(k, len(self.values)), dim=1).indices].mean(1)


def baselines(setup: Setup, pixels: Known | None) -> Iterator[tuple[str, float]]:
    """(cheap answer, its mean error on the held-out images)."""
    splits = setup.splits
    truth = torch.from_numpy(splits.test.labels)[:, 0]
    yield "always the mean", float((truth - float(splits.train.labels.mean())).abs().mean())
    if pixels:
        test = known(read_pixels(setup, splits.test))
        answers = pixels.nearest(test.features, NEIGHBOURS)
        yield "nearest neighbours, raw pixels", float((answers - test.values).abs().mean())


def known(table: FeatureTable) -> Known:
    """The features and numbers of a table."""
    return Known(table.features.float(), table.labels[:, 0].float())


def looks_alike_mirrored(pixels: Known, channels: int) -> bool:
    """Whether the nearest image of a mirrored image has nearly as good a number as that of the image itself."""
    side = int((pixels.features.shape[1] // channels) ** 0.5)
    mirrored = pixels.features.view(len(pixels.features), -1, side, channels).flip(2).flatten(1)
    plain, other = (
        float((pixels.nearest(images, 1, itself=True) - pixels.values).abs().mean())
        for images in (pixels.features, mirrored)
    )
    return other <= MIRRORED * plain


def start_head(setup: Setup) -> tuple[str, dict[str, float]]:
    """Sets the head by ridge regression on the frozen features; a sentence, and its mean error on held-out images."""
    objective, splits = setup.run.objective, setup.splits
    assert isinstance(objective, Regress)
    model: Any = setup.model
    train = read_features(setup, model, splits.train)
    fit, expected = ridge(train.features, objective.standardise(train.labels))
    with torch.no_grad():
        model.head.weight.copy_(fit.weight.T)
        model.head.bias.copy_(fit.bias)
    said = f"head: ridge regression on frozen features (mean error {expected * objective.std:.4g}, each image left out once)"
    if not len(splits.test):
        return said, {}
    test = read_features(setup, model, splits.test)
    answers = objective.mean + objective.std * fit.answers(test.features)
    return said, {"ridge on frozen features": float((answers - test.labels).abs().mean())}
