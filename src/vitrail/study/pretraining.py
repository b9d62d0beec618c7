"""The arena: one backbone, every way of pre-training, the same FLOPs, the same readouts.

What a method costs is counted, not assumed: MAE's dropped tokens buy it more steps, a momentum teacher buys fewer.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail import hardware, machine
from vitrail.errors import ConfigError, DataError, suggest
from vitrail.images.sources import Splits, open_data
from vitrail.models import cost
from vitrail.objectives.classify import Classify
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.recipes.mae import small_encoder
from vitrail.recipes.pretraining import SMALL, small_run
from vitrail.recipes.request import Given
from vitrail.study import arena_results as stored
from vitrail.study.arena_results import Cell
from vitrail.study.parallel import each
from vitrail.study.progress import claim, trained
from vitrail.study.protocols import PROTOCOLS, finetuned, frozen
from vitrail.training.run import Hardware, Run
from vitrail.weights.bundle import load

SUPERVISED, NONE = "supervised", "none"
METHODS = (NONE, SUPERVISED, *SMALL)
"""No pre-training and all labels are the floor and the ceiling of the others."""


@dataclass(frozen=True, kw_only=True)
class Arena:
    """What is compared, and how long."""

    data: str
    methods: tuple[str, ...] = METHODS
    seeds: int = 3
    epochs: float = 20.0
    """Of supervised training: its FLOPs are the budget of every method."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Of that budget, the points of the figure; the table shows the last."""
    labels: float = 0.05
    """Share of the training labels that fine-tuning may see."""
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """MAE's mask ratios of the second figure; none leaves it out."""
    at_once: int = 0
    """Runs side by side; 0 is one a core on a CPU, and one on a GPU."""
    hardware: Hardware = dataclasses.field(default_factory=lambda: Hardware(threads=1))

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                hint = suggest(method, METHODS)
                raise ConfigError(f"there is no method {method!r}", allowed=", ".join(METHODS), next_step=hint)
        if self.seeds < 1 or self.epochs <= 0 or not 0 < self.labels <= 1 or not self.shares or min(self.shares) <= 0:
            raise ConfigError(
                f"seeds = {self.seeds}, epochs = {self.epochs}, labels = {self.labels}, shares = {self.shares}",
                allowed="one seed or more, epochs and shares above 0, labels a share of the training labels",
            )


@dataclass(frozen=True)
class Job:
    """One pre-training and its readouts."""

    study: str
    method: str
    seed: int
    share: float
    """Of the budget."""
    ratio: float | None = None

    def __str__(self) -> str:
        hidden = f" hiding {self.ratio:.0%}" if self.ratio is not None else ""
        part = f", {self.share:.0%} of the budget" if self.share not in (0, 1) else ""
        return f"{self.method}{hidden}, seed {self.seed}{part}"

    def made(self, cell: Cell) -> bool:
        mine = (self.study, self.method, self.seed, self.share, self.ratio)
        return mine == (cell.study, cell.method, cell.seed, cell.share, cell.mask_ratio)


def jobs(asked: Arena) -> Iterator[Job]:
    """All of them; seed by seed, so that a report of half of them compares."""
    for seed in range(asked.seeds):
        for method in asked.methods:
            for share in asked.shares if method != NONE else (0.0,):
                yield Job("budget", method, seed, share)
        for ratio in asked.ratios:
            if not covered(asked, ratio):
                yield Job("ratio", "mae", seed, 1.0, ratio)


def covered(asked: Arena, ratio: float) -> bool:
    """Whether the table's MAE hides this share of the patches anyway, for the whole budget."""
    return "mae" in asked.methods and 1.0 in asked.shares and ratio == SMALL["mae"][0].mask_ratio


def run_arena(
    asked: Arena, folder: Path, watch: Callable[[int, int, str], object] = lambda done, total, text: None
) -> list[Cell]:
    """Every cell; the same call goes on where it was stopped.

    `watch` is told (jobs done, jobs in all, what came of the last). Runs lie in `folder`/runs and are removed once read.
    """
    splits = _open(asked.data)
    if len(splits.train.classes) < 2:
        raise DataError(f"{asked.data} has no classes to read out by", next_step="the arena needs labelled images")
    claim(folder, "pretraining", asked)
    cells = stored.load(folder / "cells.json")
    every = list(jobs(asked))
    missing = [job for job in every if sum(job.made(cell) for cell in cells) < len(PROTOCOLS)]
    cells = [cell for cell in cells if not any(job.made(cell) for job in missing)]
    watch(len(every) - len(missing), len(every), f"{len(cells):,} numbers are there from before" if cells else "")
    work = functools.partial(worked, asked, folder / "runs")
    for done, (job, found) in enumerate(each(work, missing, at_once(asked)), start=1 + len(every) - len(missing)):
        cells += found
        stored.save(cells, folder / "cells.json")
        said = " · ".join(f"{cell.protocol} {cell.accuracy:.1%}" for cell in found[: len(PROTOCOLS)])
        watch(done, len(every), f"{job}: {said}")
    return cells


def at_once(asked: Arena) -> int:
    """Runs side by side: as many as asked for, else one a core where they use one thread each."""
    if asked.at_once:
        return asked.at_once
    return machine.cores() if hardware.device(asked.hardware.device).type == "cpu" else 1


def worked(asked: Arena, runs: Path, job: Job) -> list[Cell]:
    """The cells of a job; with those of the mask ratio where its ratio is one of the curve's."""
    splits = _open(asked.data)
    given = Given(images=len(splits.train), classes=len(splits.train.classes), shape=splits.train.shape)
    budget = asked.epochs * len(splits.train) * cost.train_flops(small_encoder(given, classes=given.classes))
    run, spent = pretraining(asked, given, job.method, job.share * budget, job.seed, job.ratio)
    folder = runs / str(job).replace(" ", "-").replace(",", "").replace("%", "")
    cells = [
        Cell(
            study=job.study,
            method=job.method,
            seed=job.seed,
            flops=spent,
            protocol=protocol,
            accuracy=accuracy,
            mask_ratio=job.ratio,
            share=job.share,
        )
        for protocol, accuracy in outcome(asked, run, splits, folder)
    ]
    again = [ratio for ratio in asked.ratios if covered(asked, ratio)]
    if job == Job("budget", "mae", job.seed, 1.0):
        cells += [dataclasses.replace(cell, study="ratio", mask_ratio=ratio) for ratio in again for cell in cells]
    return cells


@functools.cache
def _open(data: str) -> Splits:
    return open_data(data)


def pretraining(
    asked: Arena, given: Given, method: str, budget: float, seed: int, ratio: float | None = None
) -> tuple[Run, float]:
    """(the run that spends `budget` operations, what it spends exactly). A mask ratio of its own keeps the number of
    images of the default one, as the paper's Figure 5, whatever that costs.
    """
    objective, lr = SMALL.get(method, SMALL["mae"])
    run = small_run(given, objective, lr)
    if method in (SUPERVISED, NONE):
        model: Any = dataclasses.replace(run.model, classes=given.classes)  # pyrefly: ignore[unexpected-keyword]
        run = dataclasses.replace(run, objective=Classify(label_smoothing=0.1), model=model)
    channels = run.preprocess.channels
    sized = dataclasses.replace(run.model, channels=channels)  # pyrefly: ignore[bad-argument-type, unexpected-keyword]
    steps = run.objective.steps_for(budget, sized, run.batch_size)
    if ratio is not None:
        assert isinstance(run.objective, Reconstruct)
        run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, mask_ratio=ratio))
    spent = steps * run.batch_size * run.objective.flops(sized) if budget else 0.0
    length = f"{steps} steps"
    run = dataclasses.replace(
        run,
        data=asked.data,
        seed=seed,
        length=length,
        evaluate_every=length,
        save_every=length,
        hardware=asked.hardware,
        optim=run.optim if budget else dataclasses.replace(run.optim, lr=0.0),  # "none": as it was drawn
    )
    return run, spent


def outcome(asked: Arena, run: Run, splits: Splits, folder: Path) -> Iterator[tuple[str, float]]:
    """(protocol, accuracy) of a model, pre-trained in `folder`."""
    trained(run, folder, splits, quiet=True)
    yield from frozen(load(folder / "last"), splits)
    yield "fine-tune", finetuned(run, asked.labels, splits, folder)
    shutil.rmtree(folder)
