"""`vitrail.embed`: a model's features of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.api.models import Model, Size, open_model
from vitrail.errors import ConfigError
from vitrail.evaluation import embedding
from vitrail.evaluation.embedding import Extraction, every_part
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.layers import Pixels, Pool
from vitrail.evaluation.store import save as save_features
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data, open_unlabelled
from vitrail.training.unseen import keep_unseen

PIXELS = 32
"""Raw pixels are compared at this many a side, or at the images' own size where that is smaller."""


def embed(
    model: Model,
    data: str | Path | Splits,
    *,
    out: str | Path | None = None,
    layer: Sequence[int] = (),
    pool: Pool = "auto",
    size: Size = None,
    holdout: float = 0.2,
    unlabelled: bool = False,
    batch: int = 64,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    download: bool = False,
    follow_links: bool = False,
    cache: str | Path | None = None,
) -> FeatureTable:
    """A model's features of images, with classes and split where the data has them.

        vitrail.embed("runs/photos-1", "./photos", out="features.safetensors")

    `layer` counts blocks from 1, or from the last with -1; without it, the features that the head reads. A test image that
    the model was trained on counts as a training image. `model` may be the word "pixels". `unlabelled` takes every picture.
    """
    splits = (
        open_unlabelled(str(data), follow_links=follow_links)
        if unlabelled
        else open_split(data, [model], holdout, download=download, follow_links=follow_links)[0]
    )
    how = Extraction(
        layers=tuple(layer), pool=pool, batch_size=batch, device=device, precision=precision, workers=workers
    )
    kept = embedding.embed(
        open_features_model(model, splits, size), every_part(splits), name=str(model), how=how,
        cache=Path(cache) if cache else None,
    )  # fmt: skip
    if out is not None:
        save_features(Path(out), kept)
    return kept


def open_split(
    data: str | Path | Splits,
    models: Sequence[Any],
    holdout: float = 0.2,
    *,
    download: bool = False,
    follow_links: bool = False,
) -> tuple[Splits, tuple[str, ...]]:
    """The images, with a test part that no model was trained on; and sentences about that."""
    if not isinstance(data, Splits):
        data = open_data(data, holdout=holdout, download=download, follow_links=follow_links)
    if not len(data.test):
        raise ConfigError("no image is held out to measure on", allowed="holdout above 0")
    return keep_unseen(data, *(model for model in models if model != "pixels"))


def open_features_model(model: Model, splits: Splits, size: Size = None) -> nn.Module:
    """A model by path, or the raw pixels for "pixels"."""
    return open_pixels(splits.train, size) if model == "pixels" else open_model(model, size)


def open_pixels(source: Source, size: Size = None) -> nn.Module:
    """A stand-in for a model, whose features are the pixels."""
    height, width, channels = source.shape or (PIXELS, PIXELS, 3)
    square = (size, size) if isinstance(size, int) else size
    return Pixels(square or (min(height, PIXELS), min(width, PIXELS)), channels)
