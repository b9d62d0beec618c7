"""Features of the frozen model and small pixels of every image, read before the first step of a run."""

from dataclasses import replace

from torch import nn

from vitrail.batches.loader import eval_batches
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.features import extract
from vitrail.evaluation.layers import Pixels
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.training.setup import Setup

SIDE = 32
"""Raw pixels are compared at this many a side."""


def read_features(setup: Setup, model: nn.Module, source: Source, preprocess: Preprocess | None = None) -> FeatureTable:
    """The model's pooled features of every image that can be read, as evaluation sees it."""
    settings, preprocess = setup.run.hardware, preprocess or setup.run.preprocess
    batches = eval_batches(
        source, preprocess=preprocess, batch_size=2 * setup.micro_batch, workers=settings.workers, strict=False
    )
    return extract(model, batches, what="features", preprocess=preprocess, precision=settings.precision)


def read_pixels(setup: Setup, source: Source) -> FeatureTable:
    """The images as the model sees them, at most SIDE pixels a side."""
    side = min(SIDE, *setup.run.preprocess.size)
    small = replace(setup.run.preprocess, size=(side, side), resize="squash")
    return read_features(setup, Pixels(small.size, small.channels), source, small)
