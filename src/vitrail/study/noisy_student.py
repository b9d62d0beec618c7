"""Noisy Student's rounds: teacher, labels, a noised student, which is the next teacher."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.batches.loader import eval_batches
from vitrail.evaluate.features import extract
from vitrail.images.samples import Arrays, Contents, Source, Splits
from vitrail.objectives.self_train import PseudoLabels, pseudo_label
from vitrail.train.loop import Result, train
from vitrail.train.run import Run
from vitrail.weights.bundle import load


def noisy_student(
    run: Run, splits: Splits, unlabelled: Source, folder: Path, *, rounds: int = 2, how: PseudoLabels | None = None
) -> Iterator[Result]:
    """A teacher trained by `run` on `splits`, then `rounds` students on its labels too; each result as it comes.

    The student is the run's own model from a new start: its noise is the run's augmentation, dropout and stochastic
    depth, the teacher answers without any. `folder` gets teacher/, student-1/, …
    """
    result = train(run, out=folder / "teacher", quiet=True, splits=splits)
    yield result
    for number in range(1, rounds + 1):
        taught = labelled_by(load(result.folder), splits.train, unlabelled, how or PseudoLabels())
        student = dataclasses.replace(run, seed=run.seed + number)
        result = train(
            student, out=folder / f"student-{number}", quiet=True, splits=dataclasses.replace(splits, train=taught)
        )
        yield result


def labelled_by(teacher: Any, known: Source, unlabelled: Source, how: PseudoLabels) -> Source:
    """The labelled images and, behind them, those the teacher is sure of, with its answers as targets."""
    batches = eval_batches(unlabelled, preprocess=teacher.record.preprocess, batch_size=256)
    logits = extract(teacher, batches).logits
    assert logits is not None
    rows, targets = pseudo_label(logits, how)
    guessed = unlabelled.subset(rows.numpy())
    classes = len(known.classes)
    labels = np.concatenate([np.eye(classes, dtype=np.float32)[known.labels], targets.numpy()])
    return Source(
        name=f"{known.name} and {unlabelled.name}",
        classes=known.classes,
        labels=labels,
        keys=[*known.keys, *guessed.keys],
        contents=joined(known.contents, unlabelled.contents),
        rows=np.concatenate([known.rows, guessed.rows + len(known.contents.sizes)]),
        notes=(f"{len(np.unique(rows)):,} of {len(unlabelled):,} unlabelled images got a label",),
    )


def joined(first: Contents, second: Contents) -> Contents:
    """Both behind one another; images in memory stay one array."""
    if isinstance(first, Arrays) and isinstance(second, Arrays) and first.array.shape[1:] == second.array.shape[1:]:
        return Arrays(np.concatenate([first.array, second.array]))
    return Joined(first, second)


@dataclasses.dataclass(frozen=True, eq=False)
class Joined:
    """Two storages as one."""

    first: Contents
    second: Contents

    def read(self, index: int) -> Any:
        count = len(self.first.sizes)
        return self.first.read(index) if index < count else self.second.read(index - count)

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return np.concatenate([self.first.sizes, self.second.sizes])
