"""`vitrail.embed`: a model's features of images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.api.models import Model, Size, open_model
from vitrail.arguments import Pool, Precision, Say
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation import embedding
from vitrail.evaluation.embedding import Extraction, every_part
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.store import save as save_features
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data, open_unlabelled
from vitrail.prediction.parts import describe
from vitrail.processes.world import World
from vitrail.training.unseen import keep_unseen

PIXELS = 32
"""Raw pixels are compared at this many a side, or at the images' own size where that is smaller."""


def embed(
    model: Model, data: str | Path | Splits, *, out: str | Path | None = None, layer: Sequence[int] = (),
    pool: Pool = "auto", size: Size = None, holdout: float = 0.2, unlabelled: bool = False, download: bool = False,
    follow_links: bool = False, cache: str | Path | None = None, batch: int = 64, device: str = "auto",
    precision: Precision = "auto", workers: int = -1, say: Say = lambda text: None,
) -> FeatureTable:  # fmt: skip
    """A model's features of images, with classes and split where the data has them.

        vitrail.embed("runs/photos-1", "./photos", out="features.safetensors")

    A test image that the model was trained on counts as a training image. `model` may be the word "pixels".

    Args:
        out: A file that ends with .safetensors.
        layer: The block whose output is read, from 1, or from the last with -1; several lie side by side, as linear-4 reads
            them. Without it, what the model's head reads.
        size: Side of square images in pixels, in place of the model's own.
    """
    opening = {"holdout": holdout, "download": download, "follow_links": follow_links}
    splits = open_parts(data, model, unlabelled, say, **opening)
    how = Extraction(
        layers=tuple(layer), pool=pool, batch_size=batch, device=device, precision=precision, workers=workers
    )
    module, parts = open_features_model(model, splits, size), every_part(splits)
    kept = embedding.embed(module, parts, name=str(model), how=how, cache=Path(cache) if cache else None)
    if out is not None:
        save_features(Path(out), kept)
    return kept


def embed_in_parts(
    model: Model, data: str | Path | Splits, out: str | Path, *, part: int = 1024, layer: Sequence[int] = (),
    pool: Pool = "auto", size: Size = None, holdout: float = 0.2, unlabelled: bool = False, download: bool = False,
    follow_links: bool = False, batch: int = 64, device: str = "auto", precision: Precision = "auto", say: Say = lambda text: None,
) -> str:  # fmt: skip
    """The same features into a Parquet file or a folder of them, `part` images at a time; gives a sentence on the result.

    For any number of images: a job that was stopped goes on, and the processes of torchrun share the work.
    """
    opening = {"holdout": holdout, "download": download, "follow_links": follow_links}
    splits = open_parts(data, model, unlabelled, say, **opening)
    how = Extraction(layers=tuple(layer), pool=pool, batch_size=batch, device=device, precision=precision)
    module = open_features_model(model, splits, size)
    job = embedding.bulk(module, every_part(splits), name=str(model), how=how, part=part)
    return describe(job.write(Path(out), World.from_environment()), Path(out))


def open_parts(data: str | Path | Splits, model: Model, unlabelled: bool, say: Say, **opening: Any) -> Splits:
    """The images to take features of, by the parts they have; or all of a folder without classes."""
    if unlabelled:
        splits, notes = open_unlabelled(str(data), follow_links=opening["follow_links"]), ()
    else:
        try:
            splits, notes = open_split(data, [model], **opening)
        except DataError as error:
            hint = "or take all pictures without classes: `unlabelled=True`"
            raise DataError(error.found, allowed=error.allowed, next_step=hint) from None
    for sentence in (splits.how, *notes):
        say(sentence)
    return splits


def open_split(data: str | Path | Splits, models: Sequence[Any], **opening: Any) -> tuple[Splits, tuple[str, ...]]:
    """The images, with a test part that no model was trained on; and sentences about that."""
    splits = open_data(data, **opening)
    if not len(splits.test):
        raise ConfigError("no image is held out to measure on", allowed="holdout above 0")
    return keep_unseen(splits, *(model for model in models if model != "pixels"))


def open_features_model(model: Model, splits: Splits, size: Size = None) -> nn.Module:
    """A model by path, or the raw pixels for "pixels"."""
    return open_pixels(splits.train, size) if model == "pixels" else open_model(model, size)


def open_pixels(source: Source, size: Size = None) -> nn.Module:
    """A stand-in for a model, whose features are the pixels."""
    height, width, channels = source.shape or (PIXELS, PIXELS, 3)
    square = (size, size) if isinstance(size, int) else size
    return Pixels(square or (min(height, PIXELS), min(width, PIXELS)), channels)
