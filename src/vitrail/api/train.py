"""`vitrail.train`: the command `vitrail train` as a function."""

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.api.folds import Folds, resume_folds, train_folds, train_in_turn
from vitrail.api.request import Chosen, Classes, choose_run, name_leaves, shorthands, spell_out
from vitrail.config import with_changes
from vitrail.errors import ConfigError
from vitrail.images.sources import Splits, check_kind
from vitrail.reports.journal import Callback
from vitrail.scores.outcome import Outcome
from vitrail.training import loop
from vitrail.training.loop import Result
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.weights.bundle import load
from vitrail.weights.published_file import are_folds


@dataclass(frozen=True)
class Trained:
    """The result of a training: its scores, its folder, its model. A notebook shows the head of its report."""

    results: tuple[Result, ...]
    """One for each seed, or for each fold."""
    why: str
    """The recipe, and why it was chosen."""
    folds: Folds | None = None
    """The cross-validation, where one was asked for."""

    @property
    def scores(self) -> Outcome:
        """The scores of the held-out images; of several seeds, the first's; of folds, those of all images."""
        return self.folds.scores if self.folds else self.results[0].scores

    @property
    def folder(self) -> Path:
        """The run folder; of several seeds, the first's; of folds, the folder of all."""
        return self.folds.folder if self.folds else self.results[0].folder

    @property
    def run(self) -> Run:
        """The settings of the run, every choice written down."""
        return self.results[0].setup.run

    @cached_property
    def model(self) -> nn.Module:
        """The trained model in eval mode, as `vitrail.load(result.folder)` gives it; of folds, the first's."""
        return load(self.results[0].folder)

    @property
    def spread(self) -> tuple[float, float]:
        """Mean and standard deviation of the seeds' headline numbers: accuracy (0 to 1), or a loss."""
        values = [result.scores.headline.value for result in self.results]
        return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0

    def __repr__(self) -> str:
        headline = self.scores.headline
        return f"Trained(held-out {headline.name} {headline}, folder={self.folder.as_posix()!r})"

    def _repr_html_(self) -> str:
        seeds = [(f"seed {result.setup.run.seed}", result.scores.headline) for result in self.results]
        rows = [*(seeds if len(seeds) > 1 else []), *self.scores.facts()]
        cells = "".join(f"<tr><td>{name}</td><td>{html.escape(str(value))}</td></tr>" for name, value in rows)
        report = html.escape((self.folder / "report.html").as_posix())
        return (
            f"<h3>{html.escape(self.folder.as_posix())}</h3><p>{html.escape(self.why)}</p>"
            f"<table>{cells}</table><p><a href='{report}'>report</a></p>"
        )


def train(
    data: str | Path | Splits | None = None, *, recipe: str | None = None, model: str | None = None,
    weights: str | Path | None = None, epochs: float | None = None, holdout: float | None = None,
    download: bool = False, classes: Classes = "top", out: str | Path | None = None, seeds: int = 1, folds: int = 0,
    like: str | Path | None = None, resume: str | Path | None = None, override: bool = False,
    accept_data_change: bool = False, allow_leaks: bool = False, tensorboard: bool = False,
    callbacks: Sequence[Callback] = (), quiet: bool = False, **changes: Any,
) -> Trained:  # fmt: skip
    """Trains a model on labelled images and gives its scores, model and folder.

        result = vitrail.train("./photos", model="vit-s/16", epochs=30, **{"optim.lr": 5e-4})
        result.scores, result.model, result.folder

    `data` is a path, a named set or opened `Splits`. Without `recipe` one is chosen by the number and shape of the images
    and by whether there are `weights`. `changes` are values of the Run: `lr=5e-4`, `size=224`,
    `batch=64` for short, `optim={"layer_decay": 0.75}`, or `**{"optim.layer_decay": 0.75}`.
    `seeds` trains so many times, into `out/seed-0` and so on. `folds` is k-fold cross-validation: every image is scored once
    by a model that was not trained on it. With `classes="leaf"` the folder that an image lies in is its class. `resume` goes
    on with a run folder, whose images may have moved, or with the folder of stopped folds. `like` takes all settings from a
    run folder or a file run.json. Each of `callbacks` is called with every row of the log: a mapping with step, epoch and
    numbers.
    Raises ConfigError for a name that is not there, DataError for images that cannot be trained on.
    """
    options: dict[str, Any] = {"quiet": quiet, "tensorboard": tensorboard, "callbacks": callbacks}
    if data is not None:
        check_kind(data)
    if resume is not None:
        refuse_choices(recipe, model, weights, like, out, seeds != 1, folds)
        stored = RunFolder.read(Path(resume))
        if isinstance(data, Splits):
            data, options["splits"] = None, data
        where = {"data": str(name_leaves(data or stored.data, classes))}
        run = with_changes(stored, {**where, **spell_out(changes), **shorthands(epochs, holdout)}, where="train")
        return go_on(Path(resume), run, override=override, accept_data_change=accept_data_change, **options)
    chosen = choose_run(
        data, like=like, recipe=recipe, model=model, weights=weights, epochs=epochs, holdout=holdout,
        download=download, classes=classes, changes=changes,
    )  # fmt: skip
    return start(chosen, Path(out) if out else None, seeds, folds, allow_leaks=allow_leaks, **options)


def start(chosen: Chosen, out: Path | None, seeds: int, folds: int, **options: Any) -> Trained:
    """Trains the chosen run: once, once for each seed from its own on, or once for each fold."""
    check_seeds(seeds, folds)
    if folds:
        found = train_folds(chosen.run, chosen.splits, folds, out, **options)
        return Trained(found.results, chosen.why, found)
    runs = [replace(chosen.run, seed=seed) for seed in range(chosen.run.seed, chosen.run.seed + seeds)]
    jobs = [(run, chosen.splits, out / f"seed-{run.seed}" if out and seeds > 1 else out) for run in runs]
    return Trained(train_in_turn(jobs, **options), chosen.why)


def go_on(folder: Path, run: Run, *, override: bool, accept_data_change: bool, **options: Any) -> Trained:
    """Goes on with a run folder as `run`, which is its own settings or these with changes; or with stopped folds."""
    if not are_folds(folder):
        result = loop.train(
            run, out=folder, resume=True, override=override, accept_data_change=accept_data_change, **options
        )
        return Trained((result,), f"recipe {run.recipe}: as the run was started")
    if run != RunFolder.read(folder):
        raise ConfigError(
            "folds go on with their own images and settings", next_step="leave them out, or start new folds"
        )
    found = resume_folds(folder, **options)
    return Trained(found.results, f"recipe {run.recipe}: as the folds were started", found)


def refuse_choices(*choices: object) -> None:
    """Raises ConfigError for a choice that a resumed run has made already."""
    if any(choices):
        raise ConfigError(
            "a resumed run keeps its recipe, model, weights, seeds and folder",
            next_step="leave them out, or start a new run",
        )


def check_seeds(seeds: int, folds: int) -> None:
    """Raises ConfigError for numbers of trainings that cannot be."""
    if seeds < 1:
        raise ConfigError(f"seeds = {seeds}", allowed="1 or more", next_step="seed chooses a single one")
    if folds and folds < 2:
        raise ConfigError(f"folds = {folds}", allowed="2 or more; 0 holds out a share")
    if folds and seeds != 1:
        raise ConfigError(
            f"folds = {folds} with seeds = {seeds}", next_step="train the folds of another seed apart, with `seed=1`"
        )
