"""Numbers about a model: one pass over the images, then any number of scores from what it gave."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from vitrail.batches.loader import Batch, eval_batches
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.classification import Scores, scores
from vitrail.evaluation.features import Extracted, extract
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import Source
from vitrail.prediction.forward import class_names, preprocess_of
from vitrail.reports.progress import track


def evaluate(
    model: nn.Module,
    source: Source,
    *,
    preprocess: Preprocess | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    precision: str = "auto",
    workers: int = -1,
    watch: Callable[[Iterable[Batch]], Iterable[Batch]] | None = None,
) -> tuple[Scores, Extracted]:
    """The scores of a classifier on every image of `source`, each exactly once, and the logits they come from.

    A model with a record is asked by name: a class of the data must be one of the model's, in any order. `watch` wraps
    the batches instead of the progress on stderr. Raises DataError for unlabelled images and for classes the model does
    not know, DecodeError for an image that cannot be read, NonFiniteError for answers that are not numbers.
    """
    if getattr(getattr(model, "config", None), "classes", 1) == 0:
        raise ConfigError("the model has no head: it names no classes", next_step="measure its features: vitrail probe")
    classes = class_names(model) or source.classes
    targets = in_classes(torch.from_numpy(source.labels), source.classes, classes)  # before hours of work, not after
    batches = eval_batches(source, preprocess=preprocess_of(model, preprocess), batch_size=batch_size, workers=workers)
    watched = watch(batches) if watch else track(batches, -(-len(source) // batch_size), "Evaluating")
    found = extract(model, watched, preprocess=preprocess, device=device, precision=precision)
    assert found.logits is not None or not len(source)
    if found.logits is None:
        raise DataError(f"{source.name} has no images to score", next_step="check the data you named")
    return scores(found.logits, targets, classes), found


def in_classes(targets: Tensor, given: tuple[str, ...], classes: tuple[str, ...]) -> Int[Tensor, "N"]:
    """Labels that index into `given` as labels that index into `classes`, by name; DataError for a name not there."""
    if targets.ndim != 1:
        raise DataError("images with several labels have no top-1 accuracy", allowed="one label an image")
    if given == classes or not given:
        return targets.long()
    used = [given[k] for k in torch.unique(targets[targets >= 0]).tolist()]
    unknown = [name for name in used if name not in classes]
    if unknown:
        raise DataError(
            f"the model does not know {len(unknown)} of the data's {len(used)} classes: {_some(unknown)}",
            allowed=_some(list(classes)),
            next_step="name the folders as the model's classes, or evaluate a model trained on these",
        )
    index = {name: k for k, name in enumerate(classes)}
    table = torch.tensor(np.array([index.get(name, -1) for name in given] + [-1]))  # the last is for the label -1
    return table[targets.long()]


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
