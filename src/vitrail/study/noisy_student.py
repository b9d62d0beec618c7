"""Noisy Student's rounds (arXiv 1911.04252): teacher, labels, a noised student, which is the next teacher."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vitrail.batches.loader import eval_batches
from vitrail.errors import ConfigError, DataError, DecodeError
from vitrail.evaluation.features import extract
from vitrail.images.chain import chain
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import NAMED, open_data, open_images
from vitrail.models import zoo
from vitrail.models.extras import settings
from vitrail.recipes import Given, choose, recipe
from vitrail.storage import write_whole
from vitrail.study.protocols import label_share
from vitrail.study.pseudo_labels import PseudoLabels, pseudo_label
from vitrail.study.study import claim, train_to_end
from vitrail.training.loop import Result
from vitrail.training.run import Hardware, Run
from vitrail.weights.bundle import load


@dataclass(frozen=True, kw_only=True)
class SelfTrain:
    """The images of a self-training, and how it trains."""

    data: str
    unlabelled: str = ""
    """Images without labels: a folder, or a named set. None: those of `data` whose labels are not used."""
    labels: float = 1.0
    """Share of every class whose labels are used."""
    rounds: int = 2
    threshold: float = 0.3
    """Least probability of a teacher's answer."""
    per_class: int = 0
    """Labelled images of each class for the student: the surest, or copies where there are fewer. 0: as many as the
    unlabelled images would give to each on average; -1: as they come, unbalanced."""
    soft: bool = True
    """The teacher's probabilities as targets, or its first choice alone."""
    drop_path: float = 0.1
    """Least stochastic depth of students, a part of their noise beside the recipe's augmentation."""
    recipe: str = ""
    """Of teacher and students; chosen by the images where none is named."""
    length: str = ""
    """Of each training, such as "20 epochs", in place of the recipe's."""
    seed: int = 0
    hardware: Hardware = dataclasses.field(default_factory=Hardware)

    def __post_init__(self) -> None:
        PseudoLabels(threshold=self.threshold)
        if self.rounds < 1 or not 0 < self.labels <= 1 or self.per_class < -1:
            raise ConfigError(
                f"rounds = {self.rounds}, labels = {self.labels}, per_class = {self.per_class}",
                allowed="one round or more, a share of the labels above 0, per_class from -1",
            )
        if self.labels == 1 and not self.unlabelled and self.data:
            raise ConfigError(
                "no images without labels were named",
                next_step="name a folder as `unlabelled`, or keep labels back with `labels=0.1`",
            )


def self_train(asked: SelfTrain, folder: Path) -> Iterator[Result]:
    """Each model's result as it comes; the same call goes on where it was stopped."""
    splits = open_data(asked.data)
    few = label_share(splits.train, asked.labels, asked.seed)
    nameless = unlabelled_of(asked, splits.train, few)
    run = run_of(asked, few)
    claim(folder, "self-train", asked)
    per_class = None if asked.per_class < 0 else asked.per_class or -(-len(nameless) // len(few.classes))
    how = PseudoLabels(threshold=asked.threshold, per_class=per_class, soft=asked.soft)
    splits = dataclasses.replace(splits, train=few)
    yield from noisy_student(run, splits, nameless, folder, rounds=asked.rounds, how=how, drop_path=asked.drop_path)


def run_of(asked: SelfTrain, few: Source) -> Run:
    """The recipe's run on these images."""
    given = Given(images=len(few), classes=len(few.classes), shape=few.shape)
    run = recipe(asked.recipe or choose(given)[0], given)
    return dataclasses.replace(
        run, data=asked.data, seed=asked.seed, hardware=asked.hardware, length=asked.length or run.length
    )


def unlabelled_of(asked: SelfTrain, whole: Source, few: Source) -> Source:
    """The images without labels that can be read; how many cannot stands in its notes."""
    if not asked.unlabelled:
        rest = np.setdiff1d(np.arange(len(whole)), np.flatnonzero(np.isin(whole.rows, few.rows)))
        return keep_readable(whole.subset(rest))
    if asked.unlabelled in NAMED and not Path(asked.unlabelled).exists():
        return keep_readable(open_data(asked.unlabelled).train)
    return keep_readable(open_images([asked.unlabelled]))


def keep_readable(source: Source) -> Source:
    """The images that decode; the others are counted and the first of them named. DataError where none does."""
    if source.in_memory is not None:
        return source
    bad: list[int] = []
    for index in range(len(source)):
        try:
            source.pixels(index)
        except DecodeError:
            bad.append(index)
    if len(bad) == len(source):
        raise DataError(f"none of the {len(source)} images of {source.name} can be read", next_step="check the folder")
    if not bad:
        return source
    names = ", ".join(source.keys[index] for index in bad[:3]) + (", …" if len(bad) > 3 else "")
    note = f"left out, because they cannot be read: {len(bad):,} of {len(source):,} images of {source.name} ({names})"
    kept = source.subset(np.setdiff1d(np.arange(len(source)), bad))
    return dataclasses.replace(kept, notes=(*source.notes, note))


def noisy_student(
    run: Run,
    splits: Splits,
    unlabelled: Source,
    folder: Path,
    *,
    rounds: int = 2,
    how: PseudoLabels | None = None,
    drop_path: float = 0.0,
) -> Iterator[Result]:
    """A teacher trained by `run` on `splits`, then `rounds` students on its labels too; each result as it comes.

    The student is the run's own model from a new start: its noise is the run's augmentation, dropout and stochastic
    depth, `drop_path` at least; the teacher answers without any. `folder` gets teacher/, student-1/, …
    """
    result = train_to_end(run, folder / "teacher", splits)
    yield result
    noised = dataclasses.replace(run, model=_deeper(run.model, drop_path))
    for number in range(1, rounds + 1):
        taught = label_by_teacher(result.folder, splits.train, unlabelled, how or PseudoLabels())
        student = dataclasses.replace(noised, seed=run.seed + number)
        result = train_to_end(student, folder / f"student-{number}", dataclasses.replace(splits, train=taught))
        yield result


def _deeper(model: Any, drop_path: float) -> Any:
    """The config with this stochastic depth at least, in families that have it."""
    if "drop_path" not in (known := settings(model)):
        return model
    return zoo.change(model, drop_path=max(known["drop_path"], drop_path))


def label_by_teacher(teacher: Path, known: Source, unlabelled: Source, how: PseudoLabels) -> Source:
    """The labelled images and, behind them, those the teacher is sure of, with its answers as targets."""
    rows, targets = _answers(teacher, unlabelled, how)
    guessed = unlabelled.subset(rows)
    labels = np.concatenate([np.eye(len(known.classes), dtype=np.float32)[known.labels], targets])
    note = f"{len(np.unique(rows)):,} of {len(unlabelled):,} unlabelled images got a label"
    return Source(
        name=f"{known.name} and {unlabelled.name}",
        classes=known.classes,
        labels=labels,
        keys=[*known.keys, *guessed.keys],
        contents=chain([known.contents, unlabelled.contents]),
        rows=np.concatenate([known.rows, guessed.rows + len(known.contents.sizes)]),
        notes=(note, *unlabelled.notes),
    )


def _answers(
    teacher: Path, unlabelled: Source, how: PseudoLabels
) -> tuple[Int64[np.ndarray, "n"], Float32[np.ndarray, "n K"]]:
    """(rows, targets) of `pseudo_label`, asked once: a study that goes on has the very labels it began with."""
    stored = teacher / "labels.npz"
    if stored.is_file():
        with np.load(stored, allow_pickle=False) as found:
            return found["rows"], found["targets"]
    model = load(teacher)
    batches = eval_batches(unlabelled, preprocess=model.record.preprocess, batch_size=256)
    rows, targets = (found.numpy() for found in pseudo_label(extract(model, batches).features, how))
    write_whole(stored, lambda file: np.savez_compressed(file, rows=rows, targets=targets))
    return rows, targets
