"""`vitrail.evaluate`, `vitrail.compare` and `vitrail.robustness`: scores on images that were not trained on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.api.models import Model, Size, open_model
from vitrail.errors import ConfigError
from vitrail.evaluation import robustness as corrupted
from vitrail.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from vitrail.evaluation.evaluate import evaluate as score
from vitrail.evaluation.evaluate import evaluate_classes
from vitrail.images.sources import Splits, open_data
from vitrail.prediction.views import Views, average_views
from vitrail.reports.page import write_page
from vitrail.scores.classification import Scores
from vitrail.scores.multilabel import MultiLabelScores
from vitrail.scores.statistics import McNemar, mcnemar
from vitrail.training.unseen import Part, Split, choose_part

Say = Callable[[str], object]


def evaluate(
    model: Model,
    data: str | Path | Splits,
    *,
    split: Split = "auto",
    size: Size = None,
    views: Views = "one",
    batch: int = 64,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    download: bool = False,
    html: str | Path | None = None,
    say: Say = lambda text: None,
) -> Scores | MultiLabelScores:
    """The scores of a classifier on labelled images: top-1 with its 95 % interval, top-5, each class, calibration.

    Images with several labels give mean average precision, and F1 at the threshold of the model's record.

        vitrail.evaluate("runs/photos-1", "./photos").top1

    Images that the model was trained on are left out, by their contents. A `split` that is named is measured whole.
    `say` hears which images they are. Raises DataError where all images were trained on, or for unknown classes.
    """
    part = open_part(data, [model], split, download=download, say=say)
    classifier = average_views(open_model(model, size), views)
    scores, _ = score(
        classifier, part.source, batch_size=batch, device=device, precision=precision, workers=workers
    )  # fmt: skip
    if html is not None:
        title = f"{model if isinstance(model, str | Path) else type(model).__name__} on {part.source.name}"
        write_page(html, title, scores.sections(part.source.picture))
    return scores


def compare(
    first: Model,
    second: Model,
    data: str | Path | Splits,
    *,
    split: Split = "auto",
    batch: int = 64,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    download: bool = False,
    say: Say = lambda text: None,
) -> McNemar:
    """McNemar's test of two models on the same images: is the difference more than luck?

    Images that either model was trained on are left out.
    """
    part = open_part(data, [first, second], split, download=download, say=say)
    options: dict[str, Any] = {"batch_size": batch, "device": device, "precision": precision, "workers": workers}
    return mcnemar(*(_right(model, part, options) for model in (first, second)))


def robustness(
    model: Model,
    data: str | Path | Splits,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    split: Split = "auto",
    batch: int = 64,
    device: str = "auto",
    precision: str = "auto",
    workers: int = -1,
    download: bool = False,
    say: Say = lambda text: None,
) -> list[corrupted.Robustness]:
    """Accuracy on corrupted images, after ImageNet-C: the clean images first, then each corruption at each severity.

    Images that the model was trained on are left out.
    """
    part = open_part(data, [model], split, download=download, say=say)
    options: dict[str, Any] = {"batch_size": batch, "device": device, "precision": precision, "workers": workers}
    return list(
        corrupted.robustness(
            open_model(model), part.source, corruptions=corruptions, severities=severities, seed=seed, **options
        )
    )


def open_part(
    data: str | Path | Splits, models: Sequence[Model], split: Split, *, download: bool, say: Say, holdout: float = 0.2
) -> Part:
    """The images to measure these models on."""
    splits = data if isinstance(data, Splits) else open_data(data, holdout=holdout, download=download)
    part = choose_part(splits, models, split, splits.train.name if isinstance(data, Splits) else str(data))
    for sentence in part.sentences:
        say(sentence)
    return part


def _right(model: Model, part: Part, options: dict[str, Any]) -> np.ndarray:
    """Which images the model answers as they are labelled."""
    scores = evaluate_classes(open_model(model), part.source, **options)
    if scores.images != len(part.source):
        raise ConfigError(f"{model} answered {scores.images} of {len(part.source)} images")
    named = np.array(scores.classes, dtype=object)  # the models may list their classes in another order
    return named[scores.predicted] == named[scores.targets]
