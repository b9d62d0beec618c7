"""A cell of a study: trainings that follow one another, and what is read of each; its row of numbers."""

import dataclasses
import functools
import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail import hardware, machine
from vitrail.config import to_dict
from vitrail.errors import ConfigError, DataError, Preempted, VitrailError
from vitrail.hardware import Hardware
from vitrail.images.heldout import add_validation
from vitrail.images.samples import Splits
from vitrail.images.sources import open_data
from vitrail.models import cost, zoo
from vitrail.prediction.forward import model_digest
from vitrail.recipes.request import Given
from vitrail.reports.journal import read
from vitrail.study.engine import Answers, open_study
from vitrail.study.questions import Cells, Question
from vitrail.study.readouts import READOUTS, Trained, read_out
from vitrail.study.subsets import take_number, take_share
from vitrail.study.workers import stopped
from vitrail.training.loop import Result, train
from vitrail.training.run import Run
from vitrail.weights.bundle import load

Value = str | int | float
VALIDATION = 0.2
"""Share of a cell's training images that become validation images where a stage asks for some."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training of a cell; the next one starts from its weights."""

    run: Run
    images: int | None = None
    """Training images, with classes as equal as they can be; None: all."""
    share: float = 1.0
    """Share of every class that it trains on."""
    seed: int = 0
    """Draws those images."""
    validate: bool = False
    """Hold validation images out of them: they choose the best weights, and give the number `validation`."""
    accuracy: str = "accuracy"
    """Name of its held-out accuracy; empty: not a number of the row."""
    readouts: tuple[str, ...] = ()

    def open(self) -> Splits:
        """Its images."""
        splits, _ = open_labelled(self.run.data)
        if self.images is not None:
            splits = dataclasses.replace(splits, train=take_number(splits.train, self.images, self.seed))
        if self.share < 1:
            splits = dataclasses.replace(splits, train=take_share(splits.train, self.share, self.seed))
        return add_validation(splits, VALIDATION) if self.validate else splits


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One place of a grid."""

    place: Mapping[str, Value]
    """Where it is: a value on each axis; `seed` among them."""
    stages: tuple[Stage, ...]
    facts: Mapping[str, float] = field(default_factory=dict)
    """Numbers of its row that are known before."""
    worth: float = field(default=1.0, compare=False)
    """Its share of the work, for the time left."""
    refused: str = ""
    """Why it cannot be trained, where that is known before."""

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.place.items())

    @property
    def key(self) -> str:
        """Its place, and a digest of all that is asked: changed settings, images or weights are another cell."""
        asked = [{**to_dict(stage), "run": _asked(stage.run), "sets": _sets(stage)} for stage in self.stages]
        return f"{self} · {hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]}"

    @property
    def slug(self) -> str:
        return re.sub(r"[^\w.=-]+", "-", self.key)


@dataclass(frozen=True, kw_only=True)
class Row:
    """The numbers of a cell."""

    place: dict[str, str | int | float]
    numbers: dict[str, float | None]

    def __getitem__(self, name: str) -> Any:
        return self.place[name] if name in self.place else self.numbers.get(name)


def run_cells(asked: Cells, cells: Sequence[Cell]) -> Answers[Row]:
    """The rows of all cells, in the folder of the question."""
    check_readouts({name for cell in cells for stage in cell.stages for name in stage.readouts})
    settings = {**asked.settings, **({"images": fingerprint(asked.data)} if "data" in asked.settings else {})}
    work = functools.partial(measure_cell, folder=(asked.folder / "cells").absolute(), keep=asked.keep)
    with open_study(asked.folder, asked.name, settings, Row) as study:
        return study.run(
            cells, work, key=lambda cell: cell.key, worth=lambda cell: cell.worth, tell=tell,
            at_once=at_once(asked), ray=asked.ray,
        )  # fmt: skip


def plan_or_refuse(place: Mapping[str, Value], plan: Callable[[], Cell]) -> Cell:
    """The cell of `plan`; one with the reason where its settings, images or weights cannot be used."""
    try:
        cell = plan()
        _ = cell.key  # it reads the weights
        return cell
    except VitrailError as error:
        return Cell(place=place, stages=(), refused=str(error))


def check_readouts(names: Collection[str]) -> None:
    """Raises ConfigError for a readout that is not there, DataError for images it cannot read: before any training."""
    for name in sorted(names):
        readout, _, data = name.partition("@")
        _ = READOUTS[readout]
        if data:
            open_labelled(data)


def at_once(asked: Cells) -> int:
    """Cells side by side: as many as asked for, else one a core or GPU where each trains with one thread."""
    if asked.at_once:
        return asked.at_once
    where = hardware.device(asked.device).type
    if where == "cuda":
        import torch

        return torch.cuda.device_count()
    return machine.cores() if where == "cpu" and asked.threads == 1 else 1


def tell(rows: Sequence[Row]) -> str:
    """The shares among the numbers, as a line."""
    said = ((name, value) for row in rows for name, value in row.numbers.items() if not unit_of(name))
    return " · ".join(f"{name} {value:.1%}" for name, value in said if value is not None)


UNITS = {
    # number: heading, factor, format
    "flops": ("TFLOP", 1e-12, "{:.4g}"),
    "gmacs": ("MMAC", 1e3, "{:.3g}"),
    "images": ("images", 1, "{:,.0f}"),
    "parameters": ("parameters", 1, "{:,.0f}"),
    "steps": ("steps", 1, "{:,.0f}"),
    "seconds": ("seconds", 1, "{:.1f}"),
    "images_per_s": ("images/s", 1, "{:,.0f}"),
    "memory": ("memory MB", 1e-6, "{:,.0f}"),
}
"""Numbers of each row that are not how good it is; all others are shares, in percent."""


def unit_of(number: str) -> tuple[str, float, str] | None:
    """Heading, factor and format of a number, or of number@DATA; None for a share."""
    name, at, data = number.partition("@")
    if name not in UNITS:
        return None
    heading, factor, form = UNITS[name]
    return f"{heading}{at}{data}", factor, form


def measure_cell(cell: Cell, *, folder: Path, keep: bool = False) -> list[Row]:
    """Trains the stages in `folder`/cell, or goes on where they stopped, and reads them."""
    if cell.refused:
        raise ConfigError(cell.refused)
    place, since, weights = folder / cell.slug, time.perf_counter(), None
    numbers: dict[str, float | None] = {"flops": 0.0, "steps": 0}
    for number, stage in enumerate(cell.stages, start=1):
        run, splits = dataclasses.replace(stage.run, weights=weights or stage.run.weights), stage.open()
        result = train_to_end(run, place / str(number), splits, report=keep)
        weights = str(result.folder / ("best" if splits.val is not None else "last"))
        done = count_steps(result)
        numbers["flops"] += result.setup.flops_per_step * done  # pyrefly: ignore[unsupported-operation]
        numbers |= {"steps": done, "images": len(result.setup.splits.train), "parameters": cost.count_parameters(
            result.setup.model), "gmacs": result.setup.macs / 1e9}  # fmt: skip
        if stage.accuracy:
            numbers[stage.accuracy] = result.scores.headline.value
        if stage.validate and result.best:
            numbers["validation"] = result.best.headline.value
        numbers |= read_out(Trained(weights, splits), stage.readouts)
    numbers["seconds"] = time.perf_counter() - since
    if not keep:
        shutil.rmtree(place)
    return [Row(place=dict(cell.place), numbers={**numbers, **cell.facts})]


def count_steps(result: Result) -> int:
    """Steps that were done: fewer than planned where patience ran out."""
    rows = [row["step"] for row in read(result.folder / "metrics.jsonl") if "step" in row]
    return max(rows, default=result.setup.total_steps)


def train_to_end(run: Run, folder: Path, splits: Splits, *, report: bool = True) -> Result:
    """Trains in `folder`, or goes on where a training of this folder stopped."""
    begun = (folder / "run.json").is_file()
    try:
        return train(
            None if begun else run,
            out=folder,
            resume=begun,
            quiet=True,
            report=report,
            splits=splits,
            check_images=False,
        )
    except Preempted as error:
        raise stopped(error.exit_code) from None


@functools.cache
def open_labelled(data: str) -> tuple[Splits, Given]:
    """The images, opened once a process, and what a recipe needs to know of them. DataError without classes."""
    splits = open_data(data)
    train_set = splits.train
    if len(train_set.classes) < 2:
        raise DataError(
            f"{data} has {len(train_set.classes) or 'no'} class{'' if train_set.classes else 'es'} to measure by",
            allowed="images of two classes or more",
        )
    return splits, Given(images=len(train_set), classes=len(train_set.classes), shape=train_set.shape)


def fingerprint(data: str) -> str:
    """A digest of all its images, held-out ones too: a study of other images is another study."""
    parts = open_labelled(data)[0].parts
    return hashlib.sha256(repr([(name, part.fingerprint) for name, part in parts.items()]).encode()).hexdigest()[:16]


def hardware_of(asked: Question) -> Hardware:
    return Hardware(device=asked.device, precision=asked.precision, threads=asked.threads, workers=asked.workers)


def in_cell(asked: Question, run: Run, seed: int, **changes: Any) -> Run:
    """The run as a cell trains it: on the study's images and hardware, judged once, at its end."""
    told: dict[str, Any] = {
        "data": asked.data,
        "evaluate_every": "100 %",
        "save_every": "25 %",
        "hardware": hardware_of(asked),
    }
    return dataclasses.replace(run, seed=seed, **(told | changes))


def size_model(run: Run, given: Given) -> Any:
    """The model as the run will build it."""
    classes = given.classes if run.objective.reads_labels else 0
    return zoo.change(run.model, channels=run.preprocess.channels, classes=classes, image=run.preprocess.size)


def flops_of(run: Run, given: Given, images: int = 0) -> float:
    """Operations of the whole run, on so many training images."""
    count = run.steps((images or given.images) / run.batch_size)
    return count * run.batch_size * run.objective.flops(size_model(run, given))


def _asked(run: Run) -> dict[str, Any]:
    """The values that decide the numbers of a run; weights count by what they are, not by where they lie."""
    told = {name: value for name, value in to_dict(run).items() if name != "hardware"}
    told["images"] = fingerprint(run.data)
    return {**told, "weights": digest_of(run.weights)} if run.weights else told


def _sets(stage: Stage) -> list[str]:
    """The other images that it is read with."""
    return [fingerprint(data) for name in stage.readouts if (data := name.partition("@")[2])]


def digest_of(weights: str) -> str:
    """The digest of a model, computed again where its files have changed."""
    files = sorted(path for path in Path(weights).glob("**/*") if path.is_file()) or [Path(weights)]
    return _digest(weights, tuple((path, path.stat().st_mtime_ns) for path in files if path.is_file()))


@functools.lru_cache(maxsize=64)
def _digest(weights: str, _files: tuple[tuple[Path, int], ...]) -> str:
    return model_digest(load(weights))
