"""The arena's table, figures and page."""

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from matplotlib.ticker import FixedLocator, FormatStrFormatter, NullLocator

from vitrail.reports import figures
from vitrail.reports.page import Facts, FigureSection, Section, TableSection, Text, write_page
from vitrail.reports.tables import Column, Table
from vitrail.study.few_labels import Arm, FewLabels, verdict
from vitrail.study.noisy_student import SelfTrain
from vitrail.study.pretraining import METHODS, Arena, Cell
from vitrail.study.protocols import PROTOCOLS
from vitrail.study.study import WHERE
from vitrail.training.loop import Result

COLOURS = (*figures.SERIES, "#e69f00", "#56b4e9")


def table(cells: Sequence[Cell]) -> Table:
    """One row a method, one column a protocol: mean ± standard deviation over seeds, in percent."""
    shown = largest_budgets(cells)
    found = means(shown, lambda cell: (cell.method, cell.protocol))
    spent = {cell.method: cell.flops for cell in shown}
    rows = []
    for method in METHODS:
        if method in spent:
            numbers = [found[method, protocol] for protocol in PROTOCOLS]
            rows.append((method, f"{spent[method] / 1e12:.3g}", *(_percent(*number) for number in numbers)))
    return Table((Column("method"), Column("TFLOP"), *(Column(name) for name in PROTOCOLS)), tuple(rows), "The arena")


def write_report(asked: Arena, cells: Sequence[Cell], path: Path) -> Path:
    return write_question(path, "Pre-training arena", _question(asked), list(sections(asked, cells)), asked)


def sections(asked: Arena, cells: Sequence[Cell]) -> Iterator[Section]:
    note = "Held-out accuracy in percent" + (
        f", mean ± standard deviation over {asked.seeds} seeds." if asked.seeds > 1 else "."
    )
    yield TableSection("Same FLOPs, same readouts", table(cells), note)
    budget = [cell for cell in cells if cell.study == "budget" and cell.flops]
    if budget:
        drawings = [lines(budget, protocol, "flops") for protocol in PROTOCOLS]
        yield FigureSection("Accuracy against pre-training compute", drawings, "Bars: standard deviation over seeds.")
    ratios = [cell for cell in cells if cell.study == "ratio"]
    if ratios:
        yield FigureSection("MAE's mask ratio", [lines(ratios, protocol, "mask_ratio") for protocol in PROTOCOLS])


def lines(cells: Sequence[Cell], protocol: str, x: str) -> figures.Drawing:
    """Accuracy over compute or mask ratio, one line a method."""
    chosen = [cell for cell in cells if cell.protocol == protocol]
    # a seed spends what the others spend
    found = means(chosen, lambda cell: (cell.method, getattr(cell, x)))
    with figures.styled(size=(4.2, 3.0)) as (figure, axes):
        methods = [method for method in METHODS if any(cell.method == method for cell in chosen)]
        for method in methods:
            points = sorted((value, *found[method, value][:2]) for name, value in found if name == method)
            at, mean, spread = zip(*points, strict=True)
            place = [value / 1e12 for value in at] if x == "flops" else at
            colour = COLOURS[METHODS.index(method) % len(COLOURS)]
            axes.errorbar(
                place, [100 * m for m in mean], [100 * s for s in spread], fmt="o-", ms=3, color=colour, label=method
            )
        axes.set(xlabel="TFLOP" if x == "flops" else "mask ratio", ylabel="accuracy, %", title=protocol)
        if x == "flops":
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
            axes.xaxis.set_major_locator(FixedLocator(_ticks(chosen)))
            axes.xaxis.set_minor_locator(NullLocator())
        if len(methods) > 1:
            axes.legend(fontsize=7)
        return figures.Drawing(figures.svg(figure), f"{protocol}: accuracy over {x} of {', '.join(methods)}")


def _ticks(cells: Sequence[Cell]) -> list[float]:
    """The ends of the compute axis and its middle, to two digits; words such as 10⁻³ would crowd it."""
    low, high = (pick(cell.flops / 1e12 for cell in cells) for pick in (min, max))
    places = [low, (low * high) ** 0.5, high] if high > 1.5 * low else [high]
    return [float(f"{place:.2g}") for place in places]


def means(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> dict[Any, tuple[float, float, int]]:
    """(mean accuracy, standard deviation over seeds, number of seeds) by key; the deviation is 0 for one seed."""
    groups: dict[Any, list[float]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell.accuracy)
    return {name: (statistics.mean(values), deviation(values), len(values)) for name, values in groups.items()}


def deviation(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def largest_budgets(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the table: of each method and seed those with the most pre-training."""
    budget = sorted((cell for cell in cells if cell.study == "budget"), key=lambda cell: cell.flops)
    most = {(cell.method, cell.seed): cell.flops for cell in budget}
    return [cell for cell in budget if cell.flops == most[cell.method, cell.seed]]


def _percent(mean: float, spread: float, seeds: int) -> str:
    return f"{100 * mean:.1f} ± {100 * spread:.1f}" if seeds > 1 else f"{100 * mean:.1f}"


def _question(asked: Arena) -> str:
    return (
        f"How good are the features of one small ViT on {asked.data}, trained by each method for the same number of floating "
        f"point operations: those of {asked.epochs:g} epochs with all labels? Operations are counted product by product, "
        "forward and backward, decoder and teacher among them.\n\n"
        "Then the encoder is frozen and read by 5 images of each class, by its 10 nearest neighbours and by a linear probe, and "
        f"fine-tuned on {asked.labels:.0%} of the labels. 'none' is the encoder as it was drawn. 'supervised' saw all labels "
        "in pre-training: it is a ceiling, not a rival."
    )


def few_labels_table(arms: Sequence[Arm]) -> Table:
    """One row a way and seed, and one a way over all seeds."""
    rows = []
    for way in dict.fromkeys(arm.way for arm in arms):
        mine = sorted((arm for arm in arms if arm.way == way), key=lambda arm: arm.seed)
        for arm in mine:
            rows.append(
                (way, str(arm.seed), f"{arm.flops / 1e12:.4g}", f"{arm.seconds:.0f}", f"{100 * arm.accuracy:.2f}")
            )
        accuracies = [100 * arm.accuracy for arm in mine]
        if len(mine) > 1:
            both = f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}"
            rows.append((way, f"all {len(mine)}", "", "", both))
    names = ("way", "seed", "TFLOP", "seconds", "held-out accuracy, %")
    return Table(tuple(Column(name) for name in names), tuple(rows), "Few labels")


def write_few_labels(asked: FewLabels, arms: Sequence[Arm], path: Path) -> Path:
    question = (
        f"The labels of {arms[0].labelled:,} images of {asked.data} are known ({asked.labels:.2%} of every class). Is it better "
        f"to spend compute on those alone, or first on all images without labels ({asked.method})? Both ways end with the same "
        "model, see the same labelled images and cost the same number of floating point operations, to a step's worth."
    )
    table = TableSection("Same FLOPs, same labels", few_labels_table(arms), verdict(arms) + ".")
    return write_question(path, "Few labels", question, [table], asked)


def self_train_table(results: Sequence[Result]) -> Table:
    """One row a model: the images it was trained on, and how good it is."""
    rows = []
    for result in results:
        train = result.setup.splits.train
        taught_by = train.notes[0] if train.multi_label else "labels"
        rows.append((result.folder.name, f"{len(train):,}", taught_by, str(result.scores)))
    names = ("model", "images", "taught by", "held-out accuracy")
    return Table(tuple(Column(name) for name in names), tuple(rows), "Self-training")


def write_self_train(asked: SelfTrain, results: Sequence[Result], path: Path) -> Path:
    question = (
        f"A teacher learns from {len(results[0].setup.splits.train):,} labelled images of {asked.data}. It labels images nobody "
        f"labelled; answers below a probability of {asked.threshold:g} are left out, and classes are balanced. A student learns "
        "from both, with noise, and is the next teacher. Images that stand there more than once are copies of a rare class."
    )
    table = TableSection("Teacher and students", self_train_table(results))
    return write_question(path, "Self-training", question, [table], asked)


def write_question(path: Path, title: str, question: str, answers: Sequence[Section], asked: object) -> Path:
    """The page of a study: its question, the answers, its settings."""
    return write_page(path, title, [Text("What was asked", question), *answers, settings(asked)])


def settings(asked: object) -> Facts:
    """The settings of a study that can change its numbers."""
    told = {name: value for name, value in vars(asked).items() if name not in WHERE}
    plain = {
        name: ", ".join(map(str, value)) if isinstance(value, tuple) else str(value) for name, value in told.items()
    }
    return Facts("Settings", list(plain.items()))
