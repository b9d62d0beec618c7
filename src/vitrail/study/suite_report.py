"""A suite's results as one table, one page and one figure; means only over what ran, and saying so."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean

from vitrail.evaluation import vtab
from vitrail.evaluation.probing import Row
from vitrail.evaluation.vit_table6 import TABLE6, columns_for
from vitrail.evaluation.vtab import Mean
from vitrail.reports.charts import Chart, Series, draw_chart
from vitrail.reports.figures import Drawing
from vitrail.reports.page import FigureSection, Section, TableSection
from vitrail.reports.tables import Column, Table
from vitrail.study.scaling import pareto_front
from vitrail.study.suite_file import Suite


@dataclass(frozen=True)
class Result:
    """One row of a suite, and what its model costs."""

    model: str
    task: str
    group: str
    row: Row
    parameters: int | None = None
    gmacs: float | None = None
    exaflops: float | None = None
    images_per_s: float | None = None


@dataclass(frozen=True)
class Missing:
    """A task that could not be opened or measured, and what to do about it."""

    task: str
    why: str


Line = tuple[str, str]
"""(model, protocol and setting)."""


def lines(results: Sequence[Result]) -> dict[Line, dict[str, Result]]:
    """Results by line, then by task."""
    found: dict[Line, dict[str, Result]] = {}
    for result in results:
        found.setdefault((result.model, f"{result.row.protocol}, {result.row.setting}"), {})[result.task] = result
    return found


def table(suite: Suite, results: Sequence[Result]) -> Table:
    """For each protocol the accuracy on each task, then the means over what ran; a column for each model, and one for
    its deviation over the seeds where there is any.
    """
    by_line = lines(results)
    models, protocols = (list(dict.fromkeys(line[part] for line in by_line)) for part in (0, 1))
    rows: list[tuple[object, ...]] = []
    for protocol in protocols:
        cells = {model: by_line.get((model, protocol), {}) for model in models}
        for task in dict.fromkeys(task for cell in cells.values() for task in cell):
            rows.append((protocol, task, *(part for cell in cells.values() for part in _percent(cell.get(task)))))
        accuracies = [{task: 100 * found.row.spread.mean for task, found in cell.items()} for cell in cells.values()]
        for row in zip(*(_means(suite, values) for values in accuracies), strict=True):
            if any(mean.ran for mean in row):
                what, *values = _mean_row(row)
                rows.append((protocol, what, *(part for value in values for part in (value, None))))
    heads = [Column(name, "{:.2f}") for model in models for name in (model, f"{model} ±")]
    kept = [k for k in range(2 + len(heads)) if k < 2 or k % 2 == 0 or any(row[k] is not None for row in rows)]
    columns = [Column("protocol"), Column("task"), *heads]
    return Table(
        tuple(columns[k] for k in kept),
        tuple(tuple(row[k] for k in kept) for row in rows),
        f"{suite.name}: accuracy, %",
    )


def _percent(found: Result | None) -> tuple[float | None, float | None]:
    """Accuracy and its deviation over the seeds, in percent; None where there is none."""
    if found is None:
        return None, None
    deviation = found.row.spread.deviation
    return 100 * found.row.spread.mean, None if deviation is None else 100 * deviation


def _mean_row(means: Sequence[Mean]) -> tuple[object, ...]:
    """ "mean of natural (2 of 7 tasks)", and the mean for each model; what ran may differ between models."""
    ran = "/".join(dict.fromkeys(str(mean.ran) for mean in means))
    return f"mean of {means[0].name} ({ran} of {means[0].of} tasks)", *(mean.accuracy for mean in means)


def _means(suite: Suite, accuracies: dict[str, float]) -> list[Mean]:
    """Of each named group, and of everything."""
    found = [replace(mean, name=f"VTAB {mean.name}") for mean in vtab.means(accuracies)] if suite.vtab else []
    groups = dict.fromkeys(entry.group for entry in suite.tasks if entry.group)
    parts = {group: [entry.called for entry in suite.tasks if entry.group == group] for group in groups}
    whole = [entry.called for entry in suite.tasks]
    if len(whole) > 1:
        parts["all tasks" if not suite.vtab else "all own tasks"] = whole
    for name, of in ((name, of) for name, of in parts.items() if len(of) > 1):
        found.append(vtab.mean_of(name, [accuracies[task] for task in of if task in accuracies], len(of)))
    return found


def cost_table(results: Sequence[Result]) -> Table:
    """Cost and scores of each model."""
    columns = (
        Column("model"),
        Column("parameters_M", "{:.2f}"),
        Column("GMACs", "{:.3f}"),
        Column("images_per_s", "{:.0f}"),
        Column("pretraining_exaFLOPs", "{:.3g}"),
    )
    rows = []
    for model in dict.fromkeys(result.model for result in results):
        own = [result for result in results if result.model == model]
        speeds = [result.images_per_s for result in own if result.images_per_s]
        million = None if own[0].parameters is None else own[0].parameters / 1e6
        rows.append((model, million, own[0].gmacs, max(speeds, default=None), own[0].exaflops))
    return Table(columns, tuple(rows), "cost")


def missing_table(missing: Sequence[Missing]) -> Table:
    return Table((Column("task"), Column("why")), tuple((gap.task, gap.why) for gap in missing), "left out")


def sections(suite: Suite, results: Sequence[Result], missing: Sequence[Missing]) -> list[Section]:
    """The page."""
    found: list[Section] = [
        TableSection("Results", table(suite, results), note=_note(missing)),
        TableSection("Cost", cost_table(results)),
    ]
    if drawing := scatter(results):
        found.append(FigureSection("Accuracy against cost", [drawing]))
    if missing:
        found.append(TableSection("Left out", missing_table(missing)))
    return found


def scatter(results: Sequence[Result]) -> Drawing | None:
    """Each model's best line by mean accuracy over the tasks it ran, with Table 6 of the ViT paper behind it."""
    best: dict[str, tuple[float, float, str]] = {}
    for (model, protocol), cells in lines(results).items():
        cost = next(iter(cells.values())).gmacs
        accuracy = 100 * mean(cell.row.spread.mean for cell in cells.values())
        if cost and (model not in best or accuracy > best[model][1]):
            best[model] = cost, accuracy, protocol
    if not best:
        return None
    tasks = list(dict.fromkeys(result.task for result in results))
    costs, accuracies, protocols = zip(*best.values(), strict=True)
    told = "; ".join(f"{model}: {protocol}" for model, protocol in zip(best, protocols, strict=True))
    caption = (
        f"Each model's best protocol {f'over {len(tasks)} tasks' if len(tasks) > 1 else f'on {tasks[0]}'} ({told}). Grey, "
        "another thing measured: the ViT paper's models, pre-trained on JFT-300M and fine-tuned on "
        f"{', '.join(columns_for(tasks))}; their GMACs follow from the exaFLOPs."
    )
    ours = Series("measured here", costs, accuracies, line=False, labels=list(best))
    what = "mean accuracy, %" if len(tasks) > 1 else "accuracy, %"
    series = [_table_6(columns_for(tasks)), ours]
    return draw_chart(
        Chart(
            "cost", "Accuracy against cost", "GMACs of one image", what, series, log=True, note=caption, size=(7.2, 4.4)
        )
    )


def _table_6(columns: Sequence[str]) -> Series:
    """The paper's models. The cheapest, the dearest and a middle one of those that nothing cheaper beats are named."""
    costs, accuracies = [row.gmacs for row in TABLE6], [100 * row.accuracy(columns) for row in TABLE6]
    front = pareto_front(costs, accuracies)
    named = {front[0], front[len(front) // 2], front[-1]}
    labels = [row.name if place in named else "" for place, row in enumerate(TABLE6)]
    return Series("ViT paper, Table 6", costs, accuracies, line=False, behind=True, labels=labels)


def _note(missing: Sequence[Missing]) -> str:
    tasks = "1 task was" if len(missing) == 1 else f"{len(missing)} tasks were"
    return f"{tasks} left out; means are over what ran." if missing else ""
