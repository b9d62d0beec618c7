"""Measures features: frozen, by three protocols; and fine-tuned on a share of the labels."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.batches.loader import eval_batches
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.features import extract
from vitrail.evaluation.fewshot import few_shot
from vitrail.evaluation.knn import knn
from vitrail.evaluation.linear import linear_probe
from vitrail.images.sources import Source, Splits
from vitrail.models import zoo
from vitrail.objectives.classify import Classify
from vitrail.study.study import train_to_end
from vitrail.training.run import Optim, Run

PROTOCOLS = ("5-shot", "10-NN", "linear", "fine-tune")
TUNING = "200 steps"


def measure_frozen(model: Any, splits: Splits) -> Iterator[tuple[str, float]]:
    """(protocol, accuracy) of the frozen features; the mean over the draws of few-shot."""
    train_set, test = (features_of(model, source) for source in (splits.train, splits.test))
    shots = min(5, int(train_set.counts.min()))
    yield "5-shot", float(np.mean([cell.accuracy for cell in few_shot(train_set, test, shots=(shots,))]))
    yield "10-NN", knn(train_set, test, k=(min(10, len(train_set)),))[0].accuracy
    yield "linear", linear_probe(train_set, test).accuracy


def features_of(model: Any, source: Source, most: int = 10_000) -> Labelled:
    """Features of the source's images, evenly chosen where there are more than `most`."""
    if len(source) > most:
        source = source.subset(np.linspace(0, len(source) - 1, most, dtype=np.int64))
    batches = eval_batches(source, preprocess=model.record.preprocess, batch_size=512)
    found = extract(model, batches, what="features")
    return labelled(found.features, found.labels, len(source.classes))


def finetune(run: Run, share: float, splits: Splits, folder: Path) -> float:
    """Held-out accuracy after fine-tuning the weights in `folder` on a share of the labels: one schedule for all."""
    few = label_share(splits.train, share, run.seed)
    tuned = dataclasses.replace(
        run,
        objective=Classify(label_smoothing=0.1),
        model=zoo.change(run.model, classes=0),
        weights=str(folder / "last"),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup="10 %", layer_decay=0.75),
        batch_size=min(64, len(few)),
        length=TUNING,
        evaluate_every=TUNING,
        save_every=TUNING,
    )
    result = train_to_end(tuned, folder / "tuned", Splits(few, splits.test, splits.how), quiet=True)
    return result.scores.headline.value


def label_share(source: Source, share: float, seed: int) -> Source:
    """A share of every class, one image at least, drawn by `seed`."""
    random = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for label in range(len(source.classes)):
        members = np.flatnonzero(source.labels == label)
        rows.append(random.permutation(members)[: max(1, round(share * len(members)))])
    return source.subset(np.sort(np.concatenate(rows)))
