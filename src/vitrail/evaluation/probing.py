"""The protocols by name: features in, rows of one table out."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.feature_set import Labelled
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.fewshot import L2, SHOTS, few_shot
from vitrail.evaluation.knn import K, knn
from vitrail.evaluation.layers import Pixels, blocks_of, up_to
from vitrail.evaluation.linear import linear_probe
from vitrail.evaluation.logistic import logistic
from vitrail.evaluation.nearest_mean import nearest_mean
from vitrail.registry import Registry
from vitrail.reports.figures import draw_intervals
from vitrail.reports.page import FigureSection, Section, TableSection
from vitrail.reports.tables import Column, Table
from vitrail.scores.statistics import Spread, spread, wilson


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the protocols. None stands for the papers' shots and k, as far as the data allows."""

    shots: tuple[int, ...] | None = None
    l2: tuple[float, ...] = (L2,)
    k: tuple[int, ...] | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    """Seeds of the few-shot draws, and of the linear probe's held-out tenth and batches."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table."""

    protocol: str
    setting: str
    spread: Spread
    interval: tuple[float, float]
    """Wilson's, for the mean over the seeds: what the number of test images leaves open."""
    images: int
    """Training images the protocol saw."""
    tested: int
    note: str = ""
    seconds: float = field(default=0.0, compare=False)


Protocol = Callable[[Labelled, Labelled, Settings], Iterator[Row]]


def _few_shot(train: Labelled, test: Labelled, asked: Settings) -> Iterator[Row]:
    smallest = int(train.counts.min())
    shots = asked.shots or tuple(count for count in SHOTS if count <= smallest)
    if not shots:
        raise DataError(f"a class has {smallest} training images", next_step="few-shot needs one of each class")
    left_out = "" if asked.shots or len(shots) == len(SHOTS) else f"the smallest class has {smallest}"
    cells = few_shot(train, test, shots=shots, l2=asked.l2, seeds=asked.seeds)
    for count in shots:
        for l2 in asked.l2:
            same = [cell for cell in cells if cell.shots == count and cell.l2 == l2]
            setting = f"{count} shot" + (f", l2 {l2:g}" if len(asked.l2) > 1 else "")
            yield row_of("few-shot", setting, [c.right for c in same], same[0].images, len(test), left_out)


def _knn(train: Labelled, test: Labelled, asked: Settings) -> Iterator[Row]:
    k = asked.k or tuple(count for count in K if count <= len(train)) or (len(train),)
    for cell in knn(train, test, k=k):
        yield row_of("kNN", f"k = {cell.k}", [cell.right], len(train), len(test))


def _nearest_mean(train: Labelled, test: Labelled, asked: Settings) -> Iterator[Row]:
    yield row_of("nearest mean", "cosine", [nearest_mean(train, test).right], len(train), len(test))


def _linear(train: Labelled, test: Labelled, asked: Settings) -> Iterator[Row]:
    found = [linear_probe(train, test, seed=seed) for seed in asked.seeds]
    right = [outcome.right for outcome in found]
    note = "lr " + ", ".join(dict.fromkeys(f"{outcome.lr:g}" for outcome in found))
    yield row_of("linear probe", f"{found[0].steps:,} steps", right, len(train), len(test), note)


def _linear_4(train: Labelled, test: Labelled, asked: Settings) -> Iterator[Row]:
    for row in _linear(train, test, asked):
        yield replace(row, protocol="linear probe, 4 blocks")


def _logistic(train: Labelled, test: Labelled, asked: Settings) -> Iterator[Row]:
    found = logistic(train, test, seed=asked.seeds[0])
    note = f"C {found.c:.3g}" + ("" if found.converged else ", not converged")
    yield row_of("logistic regression", "45 values of C", [found.right], len(train), len(test), note)


PROTOCOLS = Registry[Protocol](
    "protocol",
    {
        "fewshot": _few_shot,
        "knn": _knn,
        "nearest-mean": _nearest_mean,
        "linear": _linear,
        "linear-4": _linear_4,
        "logistic": _logistic,
    },
)
WIDE = {"linear-4": 4}
"""Protocols that read the last so many blocks side by side."""


def layers_for(model: nn.Module, protocols: Sequence[str], layers: Sequence[int] = ()) -> tuple[int, ...]:
    """The blocks that the protocols read at these layers, for one pass that gives them all; none where that is the head's.

    Raises ConfigError for a layer that the model does not have. Pixels have none.
    """
    counts = {WIDE.get(name, 1) for name in protocols}
    if isinstance(model, Pixels) or not (layers or (max(counts) > 1 and blocks_of(model))):
        return ()
    found = {number for layer in layers or (-1,) for count in counts for number in up_to(layer, count, model)}
    return tuple(sorted(found))


def probe(kept: FeatureTable, protocols: Sequence[str], asked: Settings | None = None) -> Iterator[Row]:
    """The rows of each protocol, as they are ready: trained on the train part, tested on the test part.

    Where the features of several blocks lie side by side, a protocol reads the last, or as many as WIDE says.
    Raises ConfigError for a protocol that is not in PROTOCOLS or needs more blocks.
    """
    check_protocols(protocols)
    for name in protocols:
        needed, there = WIDE.get(name, 1), kept.about.blocks
        if needed > max(1, len(there)):
            raise ConfigError(
                f"protocol {name!r} and features of {len(there)} blocks", next_step=f"extract the last {needed}"
            )
        narrow = kept.at(there[-needed:])
        train, test = narrow.part("train"), narrow.part("test")
        began = time.perf_counter()
        rows = list(PROTOCOLS[name](train, test, asked or Settings()))
        took = time.perf_counter() - began
        yield from (replace(row, seconds=took / len(rows)) for row in rows)


def check_protocols(names: Sequence[str], *more: str) -> None:
    """Raises ConfigError for a name that is neither in PROTOCOLS nor in `more`."""
    if not names:
        raise ConfigError("no protocol was named", allowed=", ".join([*PROTOCOLS, *more]))
    for name in names:
        if name not in more:
            _ = PROTOCOLS[name]


def table(rows: Sequence[tuple[str, Row]], title: str = "") -> Table:
    """Rows with the name of their model or task, accuracies in percent."""
    columns = (
        *map(Column, ("features", "protocol", "setting")),
        Column("accuracy_%", "{:.2f}"),
        Column("std", "{:.2f}"),
        Column("n"),
        *(Column(edge, "{:.2f}") for edge in ("low", "high")),
        *(Column(count, "{:,}") for count in ("trained_on", "tested_on")),
        Column("seconds", "{:.1f}"),
        Column("note"),
    )
    return Table(columns, tuple(_cells(name, row) for name, row in rows), title)


def sections(rows: Sequence[tuple[str, Row]]) -> list[Section]:
    """The page: accuracies with their intervals, and the numbers."""
    names = [f"{name}: {row.protocol}, {row.setting}" for name, row in rows]
    points = [(row.spread.mean, *row.interval) for _, row in rows]
    note = "A dot is the accuracy on held-out images, its line the 95 % interval for their number (Wilson)."
    return [
        FigureSection("Accuracy", [draw_intervals(names, points)], note=note),
        TableSection("Numbers", table(rows)),
    ]


def _cells(name: str, row: Row) -> tuple[object, ...]:
    deviation = None if row.spread.deviation is None else 100 * row.spread.deviation
    low, high = (100 * edge for edge in row.interval)
    return (
        name, row.protocol, row.setting, 100 * row.spread.mean, deviation, row.spread.n, low, high, row.images,
        row.tested, row.seconds, row.note or None,
    )  # fmt: skip


def row_of(protocol: str, setting: str, right: Sequence[int], images: int, tested: int, note: str = "") -> Row:
    """A line from the number of right answers with each seed."""
    return Row(
        protocol=protocol,
        setting=setting,
        spread=spread([hits / tested for hits in right]),
        interval=wilson(round(sum(right) / len(right)), tested),
        images=images,
        tested=tested,
        note=note,
    )
