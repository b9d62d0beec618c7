"""A search over a space of settings by Optuna. Trials are cells: a search that was stopped asks for the same ones again.

Optuna's sampler is told the seed and all earlier scores, so that each trial follows from those before it.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from vitrail.errors import ConfigError
from vitrail.reports.charts import Chart, Series
from vitrail.reports.tables import Column, Table
from vitrail.study.cells import Cell, Row, Stage, fingerprint, measure_cell, plan_or_refuse
from vitrail.study.engine import Answers, open_study
from vitrail.study.questions import Search, read_word
from vitrail.study.report import Answer, Shown, write_answer
from vitrail.study.variations import make_run, to_value

SHOWN = 20
"""Trials in the table."""


def answer(asked: Search) -> Answer:
    """Tries `trials` settings, one after the other. Raises ConfigError without Optuna."""
    optuna = import_optuna()
    space = {name: distribution(optuna, name, text) for name, text in asked.space.items()}
    search = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=asked.seed))
    settings = {**asked.settings, "images": fingerprint(asked.data)}
    work = functools.partial(measure_cell, folder=(asked.folder / "cells").absolute())
    found: Answers[Row] = Answers()
    with open_study(asked.folder, asked.name, settings, Row) as study:
        for number in range(asked.trials):
            trial = search.ask(space)
            cell = plan_cell(asked, trial.params, number)
            one = study.run(
                [cell], work, key=lambda cell: cell.key, tell=lambda rows: f"{rows[0]['validation']:.2%}", title="trial"
            )
            found.rows |= one.rows
            found.failed |= one.failed
            if one.failed:
                search.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                search.tell(trial, one.rows[str(cell)][0]["validation"])
    return write_answer(asked, found, show)


def import_optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise ConfigError("Optuna is not installed", next_step="pip install 'vitrail[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def distribution(optuna: Any, name: str, text: str) -> Any:
    """ "1e-4..1e-2" between two numbers, whole ones for whole ends; "log 1e-4..1e-2"; "a,b,c" one of these."""
    low, dots, high = text.removeprefix("log ").partition("..")
    if not dots:
        return optuna.distributions.CategoricalDistribution([read_word(part.strip()) for part in text.split(",")])
    ends = read_word(low), read_word(high)
    if not all(isinstance(end, int | float) and math.isfinite(end) for end in ends):
        raise ConfigError(
            f"{name} = {text!r} is no range", allowed="'1e-4..1e-2', 'log 1e-4..1e-2', '2..8', or 'a,b,c'"
        )
    kinds = optuna.distributions
    kind = kinds.IntDistribution if all(isinstance(end, int) for end in ends) else kinds.FloatDistribution
    try:
        return kind(*ends, log=text.startswith("log "))
    except ValueError as error:
        raise ConfigError(f"{name} = {text!r} is no range ({error})") from None


def plan_cell(asked: Search, values: Mapping[str, Any], number: int) -> Cell:
    """Trained on four fifths of the training images; the others are validation images, which give the score."""
    place = {"trial": number, **{name: to_value(value) for name, value in values.items()}}

    def plan() -> Cell:
        run = replace(make_run(asked, {**asked.fixed, **values}), seed=asked.seed)
        return Cell(place=place, stages=(Stage(run=run, validate=True),))

    return plan_or_refuse(place, plan)


def show(asked: Search, rows: Sequence[Row]) -> Shown:
    """The best trials by validation images. The test images judge the best alone."""
    order = sorted(rows, key=lambda row: -row["validation"])
    names = list(asked.space)
    columns = (Column("trial"), *map(Column, names), Column("validation %", "{:.2f}"), Column("accuracy %", "{:.2f}"))
    cells = tuple(
        (
            row["trial"],
            *(row[name] for name in names),
            100 * row["validation"],
            None if place else 100 * row["accuracy"],
        )
        for place, row in enumerate(order[:SHOWN])
    )
    best = order[0]
    so_far = [max(100 * row["validation"] for row in rows[: at + 1]) for at in range(len(rows))]
    numbers = [row["trial"] for row in rows]
    tried = Series("trial", numbers, [100 * row["validation"] for row in rows], line=False)
    highest = Series("best so far", numbers, so_far, behind=True)
    chart = Chart("search", "Trials", "trial", "validation accuracy, %", [tried, highest])
    says = (
        f"Trial {best['trial']} is the best of {len(rows)} with {best['validation']:.2%} of the validation images. It has "
        f"{best['accuracy']:.2%} of the held-out images, which chose nothing. Its validation score flatters, as the highest of "
        "many does. All trials have one seed: train the best again with others."
    )
    question = (
        f"Which settings are best on {asked.data}? Optuna's TPE sampler asks for each trial by the scores of those before. "
        "A fifth of the training images gives the score."
    )
    return Shown("Search", question, Table(columns, cells, "Search"), says, [chart])
