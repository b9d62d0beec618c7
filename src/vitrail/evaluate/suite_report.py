"""A suite's results as one table, one page and one figure; means only over what ran, and saying so."""

from collections.abc import Iterator, Sequence

from vitrail.evaluate import vtab
from vitrail.evaluate.published import TABLE6, columns_for
from vitrail.evaluate.suite import Missing, Result, Suite
from vitrail.reports.page import FigureSection, Section, TableSection
from vitrail.reports.scatter import Point, cost_scatter
from vitrail.reports.tables import Column, Table

Line = tuple[str, str]
"""(model, protocol and setting): what one line of the table is about."""


def lines(results: Sequence[Result]) -> dict[Line, dict[str, Result]]:
    """Results by line, then by task."""
    found: dict[Line, dict[str, Result]] = {}
    for result in results:
        found.setdefault((result.model, f"{result.row.protocol}, {result.row.setting}"), {})[result.task] = result
    return found


def table(suite: Suite, results: Sequence[Result]) -> Table:
    """One line a model and protocol: its accuracy on each task, and the means over those that ran."""
    tasks = list(dict.fromkeys(result.task for result in results))
    by_line = lines(results)
    heads = [name for name, _, _ in _means(suite, {})]
    columns = (
        Column("model"),
        Column("protocol"),
        *(Column(task, "{:.2f}") for task in tasks),
        *(part for head in heads for part in (Column(f"mean {head}", "{:.2f}"), Column(f"{head} ran"))),
        Column("parameters_M", "{:.1f}"),
        Column("GMACs", "{:.2f}"),
        Column("images_per_s", "{:.0f}"),
    )
    return Table(columns, tuple(_cells(suite, line, tasks, cells) for line, cells in by_line.items()), suite.name)


def _cells(suite: Suite, line: Line, tasks: Sequence[str], cells: dict[str, Result]) -> tuple[object, ...]:
    accuracies = {task: 100 * cells[task].row.spread.mean for task in cells}
    means = [part for _, mean, ran in _means(suite, accuracies) for part in (mean, ran)]
    some = next(iter(cells.values()))
    speeds = [cell.images_per_s for cell in cells.values() if cell.images_per_s]
    return (
        *line,
        *(accuracies.get(task) for task in tasks),
        *means,
        some.parameters / 1e6 if some.parameters else None,
        some.gmacs,
        sum(speeds) / len(speeds) if speeds else None,
    )


def _means(suite: Suite, accuracies: dict[str, float]) -> Iterator[tuple[str, float | None, str]]:
    """(group, mean over what ran, "2 of 7") for each group with a name, and over everything."""
    if suite.vtab:
        for mean in vtab.means(accuracies):
            yield f"VTAB {mean.name}", mean.accuracy, f"{mean.ran} of {mean.of}"
    for group in dict.fromkeys(entry.group for entry in suite.tasks if entry.group):
        yield _mean(group, [entry.called for entry in suite.tasks if entry.group == group], accuracies)
    if suite.tasks:
        yield _mean("tasks" if suite.vtab else "all", [entry.called for entry in suite.tasks], accuracies)


def _mean(name: str, tasks: Sequence[str], accuracies: dict[str, float]) -> tuple[str, float | None, str]:
    values = [accuracies[task] for task in tasks if task in accuracies]
    return name, sum(values) / len(values) if values else None, f"{len(values)} of {len(tasks)}"


def missing_table(missing: Sequence[Missing]) -> Table:
    return Table((Column("task"), Column("why")), tuple((gap.task, gap.why) for gap in missing), "left out")


def sections(suite: Suite, results: Sequence[Result], missing: Sequence[Missing]) -> list[Section]:
    """The page."""
    found: list[Section] = [TableSection("Results", table(suite, results), note=_note(missing))]
    if drawing := scatter(results):
        found.append(FigureSection("Accuracy against cost", [drawing]))
    if missing:
        found.append(TableSection("Left out", missing_table(missing)))
    return found


def scatter(results: Sequence[Result]):
    """Each model's best line by mean accuracy over the tasks it ran, with Table 6 of the ViT paper behind it."""
    best: dict[str, tuple[Point, str]] = {}
    for (model, protocol), cells in lines(results).items():
        cost = next(iter(cells.values())).gmacs
        mean = sum(cell.row.spread.mean for cell in cells.values()) / len(cells)
        if cost and (model not in best or mean > best[model][0].accuracy):
            best[model] = Point(model, cost, mean), protocol
    if not best:
        return None
    tasks = list(dict.fromkeys(result.task for result in results))
    columns = columns_for(tasks)
    theirs = [Point(row.name, row.gmacs, row.accuracy(columns)) for row in TABLE6]
    protocols = ", ".join(dict.fromkeys(protocol for _, protocol in best.values()))
    return cost_scatter(
        [point for point, _ in best.values()],
        theirs,
        cost="GMACs of one image",
        accuracy=f"mean accuracy over {len(tasks)} tasks ({protocols})",
        reference=f"ViT paper, Table 6: pre-trained on JFT-300M, fine-tuned on {', '.join(columns)}",
    )


def _note(missing: Sequence[Missing]) -> str:
    return f"{len(missing)} tasks were left out; means are over what ran." if missing else ""
