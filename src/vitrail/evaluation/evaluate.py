"""Numbers about a model: one pass over the images, then the scores of its answers."""

from collections.abc import Callable, Iterable

import torch
from torch import nn

from vitrail.batches.loader import Batch, eval_batches
from vitrail.errors import DataError
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.features import extract
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.prediction.engine import Engine
from vitrail.prediction.forward import check_head, class_names, preprocess_of
from vitrail.reports.progress import track
from vitrail.scores.answers import Answered, score_answers
from vitrail.scores.classification import Scores, index_labels


def evaluate(
    model: nn.Module | Engine,
    source: Source,
    *,
    preprocess: Preprocess | None = None,
    batch_size: int = 256,
    device: str | torch.device | None = None,
    precision: str = "auto",
    workers: int = -1,
    watch: Callable[[Iterable[Batch]], Iterable[Batch]] | None = None,
) -> tuple[Answered, FeatureTable]:
    """Scores a classifier on every image of `source`, each once; gives a table of the logits too.

    The images decide: with one label each they give `Scores` (top-1), with several `MultiLabelScores` (mean average precision;
    labels at the threshold of the model's record), with a number `NumberScores` (mean error). Classes are matched by name
    with the model's record, in any order. `watch` wraps the batches in place of the progress on stderr.
    Raises DataError for unlabelled images and for classes the model does not know, DecodeError for an image that cannot be
    read, NonFiniteError for answers that are not finite numbers.
    """
    check_head(model)
    if not len(source):
        raise DataError(f"{source.name} has no images to score", next_step="check the data you named")
    classes = class_names(model) or source.classes
    check_kind(model, source)
    index_labels(source.labels, source.classes, classes)  # before hours of work, not after
    batches = eval_batches(source, preprocess=preprocess_of(model, preprocess), batch_size=batch_size, workers=workers)
    watched = watch(batches) if watch else track(batches, -(-len(source) // batch_size), "Evaluating")
    found = extract(model, watched, preprocess=preprocess, device=device, precision=precision)
    threshold = getattr(getattr(model, "record", None), "threshold", None)
    return score_answers(found.features, source, classes, threshold), found


def check_kind(model: nn.Module | Engine, source: Source) -> None:
    """Raises DataError where a model answers with classes and the images have numbers, or the other way round."""
    numeric = getattr(getattr(model, "record", None), "numeric", False)
    if numeric != source.numeric:
        kinds = ("classes", "numbers")
        raise DataError(
            f"the model answers with {kinds[numeric]}, the images of {source.name} have {kinds[source.numeric]}",
            next_step="name images with labels of the same kind",
        )


def check_one_class(source: Source) -> None:
    """Raises DataError for images with several labels, or with numbers."""
    if source.labels.ndim == 2:
        kind = "numbers" if source.numeric else "several labels"
        raise DataError(f"the images of {source.name} have {kind}", allowed="one class an image")


def evaluate_classes(model: nn.Module | Engine, source: Source, **options) -> Scores:
    """`evaluate` for what needs one label an image: comparisons and robustness. Raises DataError for several."""
    check_one_class(source)
    scores, _ = evaluate(model, source, **options)
    assert isinstance(scores, Scores)
    return scores
