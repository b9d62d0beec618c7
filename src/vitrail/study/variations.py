"""A table of your own: every combination of the values that vary, with several seeds."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from vitrail.api.request import choose_run
from vitrail.errors import ConfigError
from vitrail.reports.charts import Chart
from vitrail.scores.statistics import spread
from vitrail.study.cells import Cell, Row, Stage, Value, flops_of, in_cell, open_labelled, plan_or_refuse, unit_of
from vitrail.study.questions import Grid, Question
from vitrail.study.report import Answer, Shown, answer_cells, best_first, count_of, series_of, summary, weigh
from vitrail.training.run import Run

BY_NAME = ("recipe", "model", "weights", "epochs")
"""Settings that `vitrail.train` takes by a name of their own; `images` is the number of training images."""


def answer(asked: Grid) -> Answer:
    return answer_cells(asked, list(plan(asked)), show)


def plan(asked: Grid) -> Iterator[Cell]:
    """All cells; seed by seed, so that a report of half of them compares."""
    for seed in range(asked.seeds):
        for values in itertools.product(*asked.vary.values()):
            varied = dict(zip(asked.vary, values, strict=True))
            place: dict[str, Value] = {**{name: to_value(value) for name, value in varied.items()}, "seed": seed}
            yield plan_or_refuse(place, functools.partial(plan_cell, asked, {**asked.fixed, **varied}, place, seed))


def plan_cell(asked: Grid, told: Mapping[str, Any], place: Mapping[str, Value], seed: int) -> Cell:
    """The cell of these values."""
    images = number_of_images(told.get("images"))
    run = replace(make_run(asked, {name: value for name, value in told.items() if name != "images"}), seed=seed)
    stage = Stage(run=run, images=images, seed=seed, readouts=asked.readouts)
    return Cell(place=place, stages=(stage,), worth=flops_of(run, open_labelled(asked.data)[1], images or 0))


def number_of_images(value: Any) -> int | None:
    """A number of images; None for all of them. ConfigError for anything else, such as a share."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not float(value).is_integer():
        raise ConfigError(f"images = {value!r}", allowed="a whole number of training images")
    return int(value)


def make_run(asked: Question, told: Mapping[str, Any]) -> Run:
    """The run that `vitrail.train` would make of these values, judged and saved as a cell needs."""
    named = {name: told[name] for name in BY_NAME if name in told}
    changes = {name: value for name, value in told.items() if name not in BY_NAME}
    run = choose_run(open_labelled(asked.data)[0], **named, changes=changes).run
    return in_cell(asked, run, run.seed)


def to_value(value: Any) -> Value:
    """A value as a table shows it."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else str(value)


def show(asked: Grid, rows: Sequence[Row]) -> Shown:
    axes = list(asked.vary)
    numbers = ["accuracy", *dict.fromkeys(name for row in rows for name in row.numbers if is_read(name))]
    table = summary(rows, axes, [*numbers, "flops", "seconds"], "Grid")
    fixed = ", ".join(f"{name} = {value}" for name, value in asked.fixed.items())
    question = (
        f"How does the held-out accuracy on {asked.data} change with {' and '.join(axes)}?"
        + (f" All cells have {fixed}." if fixed else "")
        + f" Every cell was trained with {count_of(asked.seeds, 'seed')}."
    )
    return Shown("Grid", question, table, conclude(rows, axes), [chart_of(rows, axes)])


def is_read(name: str) -> bool:
    """Whether a number was asked for as a readout, or chooses: the others are in each row."""
    return name.partition("@")[0] in ("images_per_s", "memory") or (name != "accuracy" and not unit_of(name))


def chart_of(rows: Sequence[Row], axes: Sequence[str], number: str = "accuracy", title: str = "Grid") -> Chart:
    """The number over the axis of most numbers, else over the first, with one line for each place on the others."""
    lengths = {axis: len({row[axis] for row in rows}) for axis in axes if is_numeric(rows, axis)}
    x = max(lengths, key=lambda axis: lengths[axis]) if lengths else axes[0]
    others = [axis for axis in axes if axis != x and len({row[axis] for row in rows}) > 1]
    named = [_named(row, others) for row in rows] if others else rows
    lines = series_of(named, "series" if others else "", x, number)
    values = [row[x] for row in rows]
    log = bool(lengths) and min(values) > 0 and max(values) >= 20 * min(values)
    return Chart("accuracy", title, x, f"{number}, %", lines, log=log)


def is_numeric(rows: Sequence[Row], axis: str) -> bool:
    return all(isinstance(row[axis], int | float) for row in rows)


def _named(row: Row, axes: Sequence[str]) -> Row:
    """The row with its place on these axes in words, as `series`."""
    return replace(row, place={**row.place, "series": ", ".join(f"{axis} {row[axis]}" for axis in axes)})


def conclude(rows: Sequence[Row], axes: Sequence[str]) -> str:
    """The best place against the next, and the warning that the choice itself flatters."""
    named = [_named(row, axes) for row in rows]
    best, *others = best_first(named, ["series"])
    said = f"The best cell is {best[0]} with {spread(best[1])} %."
    if not others:
        return said
    return (
        f"{said} {weigh(best, others[0])}. The cell was chosen among {1 + len(others)} by the images that it is measured on, "
        "so its number flatters. Train it with new seeds, or on other images, before you quote it."
    )
