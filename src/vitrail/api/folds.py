"""k-fold cross-validation: every image is scored once, by a model that was not trained on it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitrail.errors import ConfigError, Preempted
from vitrail.images.heldout import draw_folds
from vitrail.images.samples import Source
from vitrail.images.sources import Splits
from vitrail.processes.world import World
from vitrail.reports.page import Facts, TableSection, warning, write_page
from vitrail.reports.tables import Column, Table
from vitrail.scores.calibration import Calibration
from vitrail.scores.outcome import Outcome
from vitrail.training import loop
from vitrail.training.loop import Result
from vitrail.training.outcome import collect_answers, run_facts
from vitrail.training.run import Run
from vitrail.training.run_data import locate, open_for
from vitrail.training.run_folder import RunFolder
from vitrail.weights.bundle import load

NOTE = "Each fold holds out other images. The scores above are of all images. Each image is answered by the model of its fold."


@dataclass(frozen=True)
class Folds:
    """The runs of a cross-validation, and the scores of all images together."""

    folder: Path
    results: tuple[Result, ...]
    """One for each fold."""
    scores: Outcome
    """The scores of all images. The interval is that of their number: folds share training images, so it is a little too small."""
    source: Source
    """The images, in the order of the scores."""

    @cached_property
    def baselines(self) -> dict[str, float]:
        """The cheap answers on the same images: means over the folds, weighted by their images."""
        images = [result.scores.images for result in self.results]
        names = self.results[0].baselines
        return {
            name: float(np.average([one.baselines[name] for one in self.results], weights=images)) for name in names
        }

    @property
    def trained_on(self) -> int:
        """How many of the images the starting weights were trained on."""
        return sum(result.setup.splits.trained_on for result in self.results)

    @property
    def caveat(self) -> str:
        """Why the scores flatter; empty where they do not."""
        what = f"{self.trained_on:,} of {self.scores.images:,} images were trained on by the starting weights"
        return f"{what}: the score flatters" if self.trained_on else ""

    def table(self) -> Table:
        """A row a fold: its run, its images, its headline."""
        name = self.scores.headline.name
        rows = tuple(
            (one.folder.name, one.scores.images, str(one.scores.headline), *one.baselines.values())
            for one in self.results
        )
        cheap = (Column(name, "{:.1%}" if self.scores.headline.percent else "{:.4g}") for name in self.baselines)
        return Table((Column("fold"), Column("images", "{:,}"), Column(name), *cheap), rows, "Folds")

    def write_report(self) -> Path:
        """Writes report.html and predictions.png of all images into the folder."""
        image_of = self.source.picture
        sections = [
            *warning(self.caveat),
            *self.scores.sections(image_of),
            TableSection("Folds", self.table(), NOTE),
            Facts("Run", list(run_facts(self.results[0].setup))),
        ]
        if sheet := self.scores.draw_sheet(image_of):
            (self.folder / "predictions.png").write_bytes(sheet)
        return write_page(self.folder / "report.html", f"{self.folder.name}: {len(self.results)} folds", sections)


def train_folds(
    run: Run, splits: Splits, folds: int, out: Path | None = None, *, resume: bool = False, **options: Any
) -> Folds:
    """One run for each fold into `out`/fold-1, -2, …; then the scores of all images and their report.

    `out` keeps what was asked for, which `resume_folds` goes on with. Raises ConfigError for data with a split of its own.
    """
    if not World.from_environment().alone:
        raise ConfigError(
            "folds with several processes", next_step="train one fold in each process, from Python: fold=(1, 5)"
        )
    parts = draw_folds(splits, folds)
    run = replace(run, fold=(1, folds), data=locate(run.data), weights=run.weights and locate(run.weights))
    with RunFolder.open(run, out, resume, World()) as folder:
        folder.path.joinpath("fold-1").mkdir(exist_ok=True)  # whoever finds run.json knows that these are folds
        folder.save(run)
        try:
            jobs = [
                (replace(run, fold=(number, folds)), part, folder.path / f"fold-{number}")
                for number, part in enumerate(parts, start=1)
            ]
            results = train_in_turn(jobs, go_on=True, **options)
        except Preempted as error:
            stopped = Preempted(error.found, next_step=f"go on with `resume='{folder.path}'`")
            stopped.exit_code = error.exit_code
            raise stopped from None
        found = Folds(folder.path, results, *judge_together(results))
        found.write_report()
    return found


def train_in_turn(
    jobs: Iterable[tuple[Run, Splits, Path | None]], *, go_on: bool = False, announce: Any = None, **options: Any
) -> tuple[Result, ...]:
    """One run after another; all use the measurements of the first. With `go_on` one that began is resumed."""
    results: list[Result] = []
    for run, splits, place in jobs:
        begun = go_on and place is not None and (place / "run.json").is_file()
        run = replace(run, hardware=results[0].setup.run.hardware) if results else run
        told = None if results else announce
        results.append(
            loop.train(None if begun else run, out=place, splits=splits, resume=begun, announce=told, **options)
        )
    return tuple(results)


def resume_folds(folder: Path, splits: Splits | None = None, **options: Any) -> Folds:
    """Goes on with a cross-validation that was stopped, to the same bits."""
    run = RunFolder.read(folder)
    assert run.fold is not None
    return train_folds(run, splits or open_for(run), run.fold[1], folder, resume=True, **options)


def judge_together(results: Sequence[Result]) -> tuple[Outcome, Source]:
    """The outcome of the held-out images of several runs, each answered by its own run; and those images."""
    parts = []
    for result in results:
        model: Any = load(result.folder).to(result.setup.device)
        parts.append(collect_answers(result.setup, model, result.setup.splits.test))
    answers = {name: torch.cat([found[name] for found, _, _ in parts]) for name in parts[0][0]}
    sources = [source for _, source, _ in parts]
    whole = replace(
        sources[0],
        labels=np.concatenate([source.labels for source in sources]),
        keys=[key for source in sources for key in source.keys],
        rows=np.concatenate([source.rows for source in sources]),
    )
    setup = results[0].setup
    return setup.run.objective.judge(answers, whole, setup.classes, Calibration()), whole
