"""Noisy Student's rounds (arXiv 1911.04252): teacher, labels, a noised student, which is the next teacher."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from vitrail.batches.loader import eval_batches
from vitrail.errors import DataError, DecodeError
from vitrail.evaluation.evaluate import evaluate
from vitrail.evaluation.features import extract
from vitrail.images.chain import join
from vitrail.images.content_keys import contained, keys_of, unique_keys
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import NAMED, open_data, open_images
from vitrail.models import zoo
from vitrail.models.extras import settings
from vitrail.recipes import Given, choose, recipe
from vitrail.storage import write_whole
from vitrail.study.cells import Row, digest_of, fingerprint, hardware_of, open_labelled, train_to_end
from vitrail.study.engine import open_study
from vitrail.study.label_questions import SelfTrain
from vitrail.study.pseudo_labels import PseudoLabels, pseudo_label
from vitrail.study.report import Answer, Shown, summary, write_answer
from vitrail.study.subsets import take_share
from vitrail.training.run import Run
from vitrail.training.unseen import keep_unseen
from vitrail.weights.bundle import load, read_record, save_bundle


def answer(asked: SelfTrain) -> Answer:
    """Trains teacher and students one after the other; the same call goes on where it was stopped."""
    if asked.teacher:
        read_record(asked.teacher)  # an error now, and not in the row of every student
    splits, _ = open_labelled(asked.data)
    if asked.teacher:
        splits, _ = keep_unseen(splits, asked.teacher)
    few = take_share(splits.train, asked.labels, asked.seed)
    nameless = without_held_out(unlabelled_of(asked, splits.train, few), splits)
    per_class = None if asked.per_class < 0 else asked.per_class or -(-len(nameless) // len(few.classes))
    how = PseudoLabels(threshold=asked.threshold, per_class=per_class, soft=asked.soft)
    rounds = Rounds(
        run_of(asked, few), dataclasses.replace(splits, train=few), nameless, asked.folder, how, asked.drop_path,
        asked.teacher,
    )  # fmt: skip
    names = ["teacher", *(f"student-{number}" for number in range(1, asked.rounds + 1))]
    told = {
        "images": fingerprint(asked.data),
        "unlabelled_images": nameless.fingerprint[:16],
        "teacher_weights": digest_of(asked.teacher) if asked.teacher else "",
    }
    with open_study(asked.folder, asked.name, {**asked.settings, **told}, Row) as study:
        found = study.run(names, rounds.train, tell=lambda rows: f"{rows[0]['accuracy']:.2%}, taught by {rows[0]['taught by']}",
                          title="models")  # fmt: skip
    return write_answer(asked, found, show)


def show(asked: SelfTrain, rows: Sequence[Row]) -> Shown:
    """One row a model: the images it was trained on, and how good it is."""
    known = f"{rows[0]['images']:,} labelled images of {asked.data}"
    teacher = f"The teacher is {asked.teacher}, beside {known}" if asked.teacher else f"A teacher learns from {known}"
    question = (
        f"{teacher}. It labels images without labels. "
        f"Answers below a probability of {asked.threshold:g} are left out, and classes are balanced. A student learns from "
        "both, with noise, and is the next teacher. An image that counts more than once is a copy, of a rare class."
    )
    first, last = rows[0]["accuracy"], rows[-1]["accuracy"]
    says = (
        f"From {rows[0]['model']} to {rows[-1]['model']} the held-out accuracy goes from {first:.2%} to {last:.2%}. This is "
        "one seed: repeat it with another `seed` before you believe a small gain."
    )
    return Shown(
        "Self-training", question, summary(rows, ["model", "taught by"], ["accuracy", "images"], "Self-training"), says
    )


def run_of(asked: SelfTrain, few: Source) -> Run:
    """The recipe's run on these images."""
    given = Given(images=len(few), classes=len(few.classes), shape=few.shape)
    run = recipe(asked.recipe or choose(given)[0], given)
    return dataclasses.replace(
        run, data=asked.data, seed=asked.seed, hardware=hardware_of(asked), length=asked.length or run.length
    )


def unlabelled_of(asked: SelfTrain, whole: Source, few: Source) -> Source:
    """The images without labels that can be read; how many cannot stands in its notes."""
    if not asked.unlabelled:
        rest = np.setdiff1d(np.arange(len(whole)), np.flatnonzero(np.isin(whole.rows, few.rows)))
        return keep_readable(whole.subset(rest))
    if asked.unlabelled in NAMED and not Path(asked.unlabelled).exists():
        return keep_readable(open_data(asked.unlabelled).train)
    return keep_readable(open_images([asked.unlabelled]))


def without_held_out(source: Source, splits: Splits) -> Source:
    """The images that are not held out, by content: a student never learns from what measures it. A note counts the others.

    DataError where all of them are held out.
    """
    held = np.concatenate([keys_of(part) for name, part in splits.parts.items() if name != "train"])
    kept = np.flatnonzero(~contained(keys_of(source), unique_keys(held)))
    if len(kept) == len(source):
        return source
    what = f"{len(source) - len(kept):,} of {len(source):,} images of {source.name}"
    if not len(kept):
        raise DataError(f"held out to measure with are {what}", next_step="name other images as `unlabelled`")
    note = f"left out, because they or copies of them are held out: {what}"
    return dataclasses.replace(source.subset(kept), notes=(*source.notes, note))


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


@dataclass(frozen=True)
class Rounds:
    """A teacher trained by `run` on `splits`, then students on its labels too, each in a folder of its own.

    The student is the run's own model from a new start: its noise is the run's augmentation, dropout and stochastic
    depth, `drop_path` at least; the teacher answers without any.
    """

    run: Run
    splits: Splits
    unlabelled: Source
    folder: Path
    how: PseudoLabels = PseudoLabels()  # noqa: RUF009  # frozen
    drop_path: float = 0.0
    teacher: str = ""
    """Weights of a first teacher that exists already."""

    def train(self, name: str) -> list[Row]:
        """The model "teacher" or "student-1", …; a student needs the model before it."""
        number = int(name.partition("-")[2] or 0)
        if self.teacher and not number:
            return [self.take_teacher()]
        run, splits = self.run, self.splits
        if number:
            before = self.folder / ("teacher" if number == 1 else f"student-{number - 1}")
            run = dataclasses.replace(run, model=_deeper(run.model, self.drop_path), seed=run.seed + number)
            splits = dataclasses.replace(
                splits, train=label_by_teacher(before, splits.train, self.unlabelled, self.how)
            )
        result = train_to_end(run, self.folder / name, splits)
        taught = "; ".join(splits.train.notes) if number else "labels"
        place: dict[str, str | int | float] = {"model": name, "taught by": taught}
        return [Row(place=place, numbers={"accuracy": result.scores.headline.value, "images": len(splits.train)})]

    def take_teacher(self) -> Row:
        """The teacher that was named, measured, and copied into the folder, where its labels will lie beside it."""
        model = load(self.teacher)
        scores, _ = evaluate(model, self.splits.test)
        save_bundle(self.folder / "teacher", model, model.record)
        numbers: dict[str, float | None] = {"accuracy": scores.headline.value, "images": len(self.splits.train)}
        return Row(place={"model": "teacher", "taught by": self.teacher}, numbers=numbers)


def _deeper(model: Any, drop_path: float) -> Any:
    """The config with this stochastic depth at least, in families that have it."""
    if "drop_path" not in (known := settings(model)):
        return model
    return zoo.change(model, drop_path=max(known["drop_path"], drop_path))


def label_by_teacher(teacher: Path, known: Source, unlabelled: Source, how: PseudoLabels) -> Source:
    """The labelled images and, behind them, those the teacher is sure of, with its answers as targets."""
    rows, targets = _answers(teacher, unlabelled, how)
    sure = dataclasses.replace(known, labels=np.eye(len(known.classes), dtype=np.float32)[known.labels])
    both = join([sure, dataclasses.replace(unlabelled.subset(rows), classes=known.classes, labels=targets)])
    note = f"{len(np.unique(rows)):,} of {len(unlabelled):,} unlabelled images got a label"
    name = f"{known.name} and {unlabelled.name}"
    return dataclasses.replace(both, name=name, notes=(note, *unlabelled.notes))


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
