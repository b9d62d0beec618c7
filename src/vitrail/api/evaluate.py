"""`vitrail.evaluate`, `vitrail.compare` and `vitrail.robustness`: scores on images that were not trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrail.api.models import Classifier, Size, open_classifier
from vitrail.arguments import EngineName, Precision, Say, Split, Views
from vitrail.errors import DataError
from vitrail.evaluation import robustness as corrupted
from vitrail.evaluation.corruptions import CORRUPTIONS
from vitrail.evaluation.evaluate import Answered, evaluate_classes
from vitrail.evaluation.evaluate import evaluate as score
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.images.samples import Source
from vitrail.images.sources import Splits, open_data
from vitrail.models.backbone import Backbone
from vitrail.prediction.engine import Engine
from vitrail.prediction.views import average_views
from vitrail.reports.page import warning, write_page
from vitrail.reports.tables import Column, Table
from vitrail.scores.classification import index_labels
from vitrail.scores.multilabel import MultiLabelScores
from vitrail.scores.regression import NumberScores
from vitrail.scores.statistics import McNemar, mcnemar
from vitrail.training.unseen import Part, choose_part


def evaluate(
    model: Classifier, data: str | Path | Splits | Source, *, split: Split = "auto", size: Size = None, views: Views = "one",
    batch: int = 64, engine: EngineName = "auto", device: str = "auto", precision: Precision = "auto", workers: int = -1,
    download: bool = False, follow_links: bool = False, answers: str | Path | None = None,
    html: str | Path | None = None, say: Say = lambda text: None,
) -> Answered:  # fmt: skip
    """The scores of a classifier on labelled images: top-1 with its 95 % interval, top-5, each class, calibration.

    Images with several labels give mean average precision, and F1 at the threshold of the model's record; numbers give the
    mean error and R².

        vitrail.evaluate("runs/photos-1", "./photos").top1

    Images that the model was trained on are left out, by their contents. `say` hears which images are measured. Raises
    DataError where all images were trained on, or for unknown classes.

    Args:
        model: A run folder, a bundle, a weights file or an exported model.
        size: Height and width to measure at, instead of the model's own; its positions are resized.
        answers: Also write the answer to each image and its truth here, as CSV, or as JSON where the name ends with .json.
        html: Also write a report with pictures here.
    """
    found = measure(
        model, data, split=split, size=size, views=views, batch=batch, engine=engine, device=device,
        precision=precision, workers=workers, download=download, follow_links=follow_links, say=say,
    )  # fmt: skip
    if answers is not None:
        found.write_answers(answers)
    if html is not None:
        found.write_page(html)
    return found.scores


@dataclass(frozen=True, eq=False)
class Measured:
    """The scores of a model on one set of images, and the answer to each image."""

    title: str
    source: Source
    scores: Answered
    extracted: FeatureTable
    trained_on: int = 0
    """How many of the images the model was trained on: more than 0 only where that part was asked for."""

    @property
    def caveat(self) -> str:
        """Why the scores flatter; empty where they do not."""
        what = f"{self.trained_on:,} of {self.scores.images:,} images were trained on"
        return f"{what}: the score flatters" if self.trained_on else ""

    def write_page(self, path: str | Path) -> Path:
        """Writes the report with pictures. Raises StorageError."""
        return write_page(path, self.title, [*warning(self.caveat), *self.scores.sections(self.source.picture)])

    def write_answers(self, path: str | Path) -> Path:
        """Writes a line per image: key, truth, answer, probability. JSON for a name that ends so, else CSV."""
        table = table_answers(self.scores, self.extracted, self.source)
        table.write(Path(path))
        return Path(path)


def measure(
    model: Classifier, data: str | Path | Splits | Source, *, split: Split = "auto", size: Size = None, views: Views = "one",
    batch: int = 64, engine: EngineName = "auto", device: str = "auto", precision: Precision = "auto", workers: int = -1,
    download: bool = False, follow_links: bool = False, say: Say = lambda text: None,
) -> Measured:  # fmt: skip
    """The scores, as `evaluate` gives them, with the answer to each image."""
    # a wrong name is told before the images are read
    classifier = open_classifier(model, size, engine=engine, device=device, precision=precision)
    part = open_part(data, [classifier], split, download=download, follow_links=follow_links, say=say)
    scores, extracted = score(
        average_views(classifier, views),
        part.source,
        batch_size=batch,
        device=device,
        precision=precision,
        workers=workers,
    )
    title = f"{model if isinstance(model, str | Path) else type(model).__name__} on {part.source.name}"
    return Measured(title, part.source, scores, extracted, part.trained_on)


def table_answers(scores: Answered, extracted: FeatureTable, source: Source) -> Table:
    """A row an image: its key, its truth, the answer, whether it is right, and the probabilities of both."""
    if isinstance(scores, NumberScores):
        pairs = zip(extracted.keys, scores.truth.tolist(), scores.answers.tolist(), strict=True)
        rows = tuple((key, truth, answer, answer - truth) for key, truth, answer in pairs)
        return Table(tuple(map(Column, ("image", "truth", "answer", "error"))), rows)
    names = scores.classes
    if isinstance(scores, MultiLabelScores):
        probabilities = extracted.features.sigmoid()
        truth = index_labels(source.labels, source.classes, names) > 0  # in the order of the model's classes
        given = probabilities >= scores.threshold
        joined = ["|".join(name for name, on in zip(names, row, strict=True) if on) for row in (*truth, *given)]
        pairs = zip(extracted.keys, joined[: len(truth)], joined[len(truth) :], strict=True)
        rows = tuple((key, labels, answer, labels == answer) for key, labels, answer in pairs)
        return Table(tuple(map(Column, ("image", "truth", "answer", "right"))), rows)
    own = extracted.features.softmax(1).gather(1, torch.from_numpy(scores.targets)[:, None])[:, 0].tolist()
    both = zip(extracted.keys, scores.targets, scores.predicted, scores.confidence.tolist(), own, strict=True)
    columns = ("image", "truth", "answer", "right", "probability", "probability_of_truth")
    rows = tuple((key, names[t], names[p], bool(t == p), sure, of_truth) for key, t, p, sure, of_truth in both)
    return Table(tuple(map(Column, columns)), rows)


def table_doubts(parts: Sequence[Measured], most: int = 50) -> Table:
    """The images whose label the model doubts most: wrong answers, the least probable label first."""
    if any(found.source.labels.ndim == 2 for found in parts):
        raise DataError("images with several labels, or with numbers", allowed="one class an image")
    tables = [table_answers(found.scores, found.extracted, found.source) for found in parts]
    rows = [row for table in tables for row in table.rows if not row[3]]
    doubts = sorted(rows, key=lambda row: row[5])[:most]
    columns = (
        Column("image"),
        Column("label"),
        Column("answer"),
        Column("probability", "{:.1%}"),
        Column("of_label", "{:.2%}"),
    )
    return Table(columns, tuple((key, truth, answer, sure, own) for key, truth, answer, _, sure, own in doubts))


def compare(
    first: Classifier, second: Classifier, data: str | Path | Splits | Source, *, split: Split = "auto", batch: int = 64,
    device: str = "auto", precision: Precision = "auto", workers: int = -1, download: bool = False,
    follow_links: bool = False, say: Say = lambda text: None,
) -> McNemar:  # fmt: skip
    """McNemar's test of two models on the same images: is the difference more than luck?

    Args:
        data: Labelled images; those that either model was trained on are left out.
    """
    pair = [open_classifier(model, device=device, precision=precision) for model in (first, second)]
    part = open_part(data, pair, split, download=download, follow_links=follow_links, say=say)
    options: dict[str, Any] = {"batch_size": batch, "device": device, "precision": precision, "workers": workers}
    return mcnemar(*(_right(model, part, options) for model in pair))


def robustness(
    model: Classifier, data: str | Path | Splits, *, corruptions: Sequence[str] = (),
    severities: Sequence[int] = (1, 2, 3, 4, 5), seed: int = 0, split: Split = "auto", batch: int = 64,
    engine: EngineName = "auto", device: str = "auto", precision: Precision = "auto", workers: int = -1,
    download: bool = False, follow_links: bool = False, say: Say = lambda text: None,
) -> list[corrupted.Robustness]:  # fmt: skip
    """Accuracy on corrupted images, after ImageNet-C: the clean images first, then each corruption at each severity.

    Args:
        data: Labelled images; those that the model was trained on are left out.
        corruptions: Names with commas between; all twelve by default.
        severities: From 1, the weakest, to 5.
        seed: Draws the noise.
    """
    names, severities = corrupted.choose(corruptions or tuple(CORRUPTIONS), severities)  # before the images are read
    classifier = open_classifier(model, engine=engine, device=device, precision=precision)
    part = open_part(data, [classifier], split, download=download, follow_links=follow_links, say=say)
    options: dict[str, Any] = {"batch_size": batch, "device": device, "precision": precision, "workers": workers}
    return list(
        corrupted.robustness(
            classifier,
            part.source,
            corruptions=names,
            severities=severities,
            seed=seed,
            **options,
        )
    )


def open_part(
    data: str | Path | Splits | Source, models: Sequence[Classifier], split: Split, *, say: Say, **opening: bool
) -> Part:
    """The images to measure these models on. A Source is one part, as if it were named: its test part."""
    if isinstance(data, Source):
        data = Splits(data.subset([]), data, "the images that were given")
    splits = open_data(data, **opening)
    part = choose_part(splits, models, split, splits.train.name if isinstance(data, Splits) else str(data))
    for sentence in part.sentences:
        say(sentence)
    return part


def _right(model: Backbone | Engine, part: Part, options: dict[str, Any]) -> np.ndarray:
    """Which images the model answers as they are labelled."""
    scores = evaluate_classes(model, part.source, **options)
    named = np.array(scores.classes, dtype=object)  # the models may list their classes in another order
    return named[scores.predicted] == named[scores.targets]
