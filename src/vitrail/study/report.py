"""The answer of a study: one table with mean, deviation and n, figures, a paragraph on what the numbers show, one page."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from vitrail.reports.charts import Chart, Series, draw_chart, save_chart
from vitrail.reports.page import Facts, FigureSection, Section, TableSection, Text, write_page
from vitrail.reports.tables import Column, Table
from vitrail.scores.statistics import Spread, spread
from vitrail.storage import write_whole
from vitrail.study.cells import Cell, Row, run_cells, unit_of
from vitrail.study.engine import Answers
from vitrail.study.questions import Cells, Question

SHOWS = "What this shows, and what it does not"
ONE_SEED = "one seed cannot tell"
"""The verdict on a claim where nothing says how far seeds differ."""


@dataclass(frozen=True)
class Shown:
    """The answer that a study gives from its rows."""

    title: str
    question: str
    """Paragraphs: what was asked, and how it was measured."""
    table: Table
    says: str
    """A paragraph: the numbers show this, and not that."""
    charts: Sequence[Chart] = ()
    tables: Sequence[TableSection] = ()
    """More tables, under the figures."""


@dataclass(frozen=True)
class Answer:
    """A study's answer. A notebook shows its table and what it says."""

    rows: Sequence[Any]
    """One for each cell and seed: `row["accuracy"]`, `row["model"]`."""
    table: Table
    says: str
    page: Path
    failed: dict[str, str] = field(default_factory=dict)
    """Why cells have no row."""
    exit_code: int = 0

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{html.escape(column.name)}</th>" for column in self.table.columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.table.written()
        )
        return f"<table><tr>{head}</tr>{body}</table><p>{html.escape(self.says)}</p>"


def answer_cells(asked: Cells, cells: Sequence[Cell], show: Any) -> Answer:
    """Computes the cells that are missing, and writes what `show(asked, rows)` makes of all of them."""
    return write_answer(asked, run_cells(asked, cells), show)


def write_answer(asked: Question, found: Answers[Any], show: Any) -> Answer:
    """The page, table.csv and the figures' files. Raises the first failure's words where nothing succeeded."""
    rows = list(found)
    failed = {place: failure.why for place, failure in found.failed.items()}
    codes = [failure.exit_code for failure in found.failed.values()]
    if not rows:
        shown = Shown(asked.name, "", failed_table(failed), f"None of {count_of(len(failed), 'cell')} succeeded.")
    else:
        shown = show(asked, rows)
    says = shown.says + (f" {count_of(len(failed), 'cell')} failed; no number counts them." if failed and rows else "")
    drawings = [draw_chart(chart) for chart in shown.charts]
    sections: list[Section] = [
        *([Text("What was asked", shown.question)] if shown.question else []),
        TableSection("Results", shown.table),
        *([FigureSection("Figures", drawings)] if drawings else []),
        Text(SHOWS, says),
        *shown.tables,
        *([TableSection("Failed cells", failed_table(failed))] if failed and rows else []),
        Facts("Settings", settings_of(asked)),
    ]
    page = write_page(asked.folder / "report.html", shown.title, sections)
    write_whole(asked.folder / "table.csv", shown.table.csv())
    for chart in shown.charts:
        save_chart(chart, asked.folder / "figures")
    return Answer(rows, shown.table, says, page, failed, codes[0] if codes else 0)


def failed_table(failed: dict[str, str]) -> Table:
    return Table((Column("cell"), Column("why it failed")), tuple(failed.items()), "failed cells")


def settings_of(asked: Question) -> list[tuple[str, str]]:
    """The settings of a study that can change its numbers, axes among them."""
    told = {**asked.settings, **{name: getattr(asked, name) for name in asked.axes}}
    return [
        (name, ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)) for name, value in told.items()
    ]


def values_of(rows: Iterable[Row], axes: Sequence[str], number: str = "accuracy") -> dict[tuple[Any, ...], list[float]]:
    """A number of all seeds, by the values on these axes, in the order they come; rows without it are left out."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        if (value := row[number]) is not None:
            found.setdefault(tuple(row[axis] for axis in axes), []).append(value)
    return found


def group(rows: Iterable[Row], axes: Sequence[str], number: str) -> dict[tuple[Any, ...], Spread]:
    """Mean and deviation of `values_of`."""
    return {place: spread(values) for place, values in values_of(rows, axes, number).items()}


def choose(rows: Iterable[Row], axes: Sequence[str]) -> dict[tuple[Any, ...], Row]:
    """The row of the best validation score, by the values on these axes."""
    best: dict[tuple[Any, ...], Row] = {}
    for row in rows:
        place = tuple(row[axis] for axis in axes)
        if place not in best or row["validation"] > best[place]["validation"]:
            best[place] = row
    return best


def best_first(rows: Iterable[Row], axes: Sequence[str], number: str = "accuracy") -> list[tuple[str, list[float]]]:
    """Places by name with their values, the highest mean first."""
    found = values_of(rows, axes, number)
    return [(", ".join(map(str, place)), found[place]) for place in sorted(found, key=lambda at: -mean(found[at]))]


def summary(rows: Sequence[Row], axes: Sequence[str], numbers: Sequence[str], title: str = "") -> Table:
    """One row a place: the mean of each number over its seeds, its deviation where there are several, and n."""
    columns = [Column(axis) for axis in axes]
    groups = {number: group(rows, axes, number) for number in numbers}
    places = list(dict.fromkeys(tuple(row[axis] for axis in axes) for row in rows))
    cells: list[list[Any]] = [list(place) for place in places]
    for number, found in groups.items():
        heading, factor, form = unit_of(number) or (f"{number} %", 100, "{:.2f}")
        columns.append(Column(heading, form))
        several = not unit_of(number) and any(one.deviation is not None for one in found.values())
        columns += [Column(f"{number} ±", "{:.2f}")] * several
        for cell, place in zip(cells, places, strict=True):
            one = found.get(place)
            cell.append(None if one is None else one.mean * factor)
            if several:
                cell.append(None if one is None or one.deviation is None else one.deviation * factor)
    first = next(iter(groups.values()))
    for cell, place in zip(cells, places, strict=True):
        cell.append(first[place].n if place in first else 0)
    return Table((*columns, Column("n")), tuple(map(tuple, cells)), title)


def series_of(
    rows: Sequence[Row], by: str, x: str, number: str, *, factor: float = 1.0, line: bool = True
) -> list[Series]:
    """One series for each value of `by` (one of all rows where it is empty): the number in percent over x, with its deviation."""
    found = []
    for name in dict.fromkeys(row[by] if by else number for row in rows):
        mine = [row for row in rows if not by or row[by] == name]
        places = {place: one for (place,), one in group(mine, [x], number).items()}
        at = sorted(places) if all(not isinstance(place, str) for place in places) else list(places)
        ys, bars = [100 * places[p].mean for p in at], [100 * (places[p].deviation or 0.0) for p in at]
        found.append(Series(str(name), [p if isinstance(p, str) else factor * p for p in at], ys, bars, line))
    return found


def count_of(number: int, word: str) -> str:
    """ "1 seed", "3 seeds"."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def margin_of(first: Sequence[float], second: Sequence[float]) -> tuple[float, float | None]:
    """The difference of two means, and the larger spread over seeds; None where one of them has one seed."""
    one, other = spread(first), spread(second)
    wide = [each.deviation for each in (one, other) if each.deviation is not None]
    return one.mean - other.mean, max(wide) if len(wide) == 2 else None


def weigh(first: tuple[str, Sequence[float]], second: tuple[str, Sequence[float]]) -> str:
    """A sentence: how far apart two named lists of shares are, and whether that is more than the larger spread over seeds."""
    margin, wide = margin_of(first[1], second[1])
    said = f"{first[0]} − {second[0]}: {100 * margin:+.2f} points"
    if wide is None:
        return f"{said}, of one seed"
    word = "more" if abs(margin) > wide else "no more"
    return f"{said}, {word} than the larger spread over seeds, {100 * wide:.2f}"
