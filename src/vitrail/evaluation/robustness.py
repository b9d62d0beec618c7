"""Accuracy against corruption: any set, 12 kinds, 5 severities, every image the same for every model."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64
from torch import nn

from vitrail.errors import ConfigError
from vitrail.evaluation.corruptions import CORRUPTIONS, SEVERITIES, check, corrupt
from vitrail.evaluation.evaluate import evaluate_classes
from vitrail.images.decode import decode
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Contents, Source
from vitrail.prediction.engine import Engine
from vitrail.prediction.forward import preprocess_of
from vitrail.reports.figures import draw_severities
from vitrail.reports.page import Facts, FigureSection, Section, TableSection
from vitrail.reports.progress import progress
from vitrail.reports.tables import Table


@dataclass(frozen=True)
class Robustness:
    """The accuracy under one corruption at one severity; severity 0 is the clean set."""

    corruption: str
    severity: int
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Corrupted:
    """The contents of a source at the size the model reads, corrupted there: severities mean the same for all
    images.
    """

    contents: Contents
    preprocess: Preprocess
    corruption: str
    severity: int
    seed: int

    def read(self, index: int) -> np.ndarray:
        image = decode(self.contents.read(index), background=self.preprocess.background)
        resized = self.preprocess.resize_image(image).numpy().transpose(1, 2, 0)
        return corrupt(resized, self.corruption, self.severity, seed=self.seed, sample=index)

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return self.contents.sizes


def corrupted(source: Source, preprocess: Preprocess, corruption: str, severity: int, *, seed: int = 0) -> Source:
    """The source with every image corrupted; evaluate it with `at_size(preprocess)`, for it is resized already."""
    check(corruption, severity)
    contents = Corrupted(source.contents, preprocess, corruption, severity, seed)
    return dataclasses.replace(source, contents=contents, name=f"{source.name}, {corruption} {severity}")


def at_size(preprocess: Preprocess) -> Preprocess:
    if preprocess.resize == "native":  # at its shape an image stays as it is
        return preprocess
    return dataclasses.replace(preprocess, resize="squash", crop_fraction=1.0)


def robustness(
    model: nn.Module | Engine,
    source: Source,
    *,
    corruptions: Sequence[str] = tuple(CORRUPTIONS),
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    **options,
) -> Iterator[Robustness]:
    """The clean accuracy, then each corruption at each severity. `options` are those of `evaluate`."""
    corruptions, severities = choose(corruptions, severities)
    preprocess = preprocess_of(model, options.pop("preprocess", None))
    clean = evaluate_classes(model, source, preprocess=preprocess, **options)
    yield Robustness("none", 0, clean.top1, clean.interval)
    for name in corruptions:
        with progress(len(severities) * len(source), name.replace("_", " ").capitalize()) as bar:
            for done, severity in enumerate(severities, 1):
                made = corrupted(source, preprocess, name, severity, seed=seed)
                scores = evaluate_classes(model, made, preprocess=at_size(preprocess), watch=iter, **options)
                bar.update(done * len(source))
                yield Robustness(name, severity, scores.top1, scores.interval)


def choose(corruptions: Sequence[str], severities: Sequence[int]) -> tuple[list[str], list[int]]:
    """Both lists, each value once. Raises ConfigError for a value that is unknown, and for an empty list."""
    for what, values in (("corruptions", corruptions), ("severities", severities)):
        if not len(values):
            raise ConfigError(f"{what} = {values}", allowed="one or more")
    for name in corruptions:
        for severity in severities:
            check(name, severity)
    return list(dict.fromkeys(corruptions)), list(dict.fromkeys(severities))


def mean_corrupted(rows: Sequence[Robustness]) -> float:
    """Mean accuracy over corruptions, each the mean over its severities."""
    names = {row.corruption for row in rows if row.severity}
    each = [np.mean([row.accuracy for row in rows if row.corruption == name]) for name in sorted(names)]
    return float(np.mean(each))


def sections(rows: Sequence[Robustness], table: Table) -> list[Section]:
    """The page: clean and corrupted accuracy, a curve over severity for each corruption, the numbers."""
    clean = rows[0]
    names = dict.fromkeys(row.corruption for row in rows if row.severity)
    curves = {name: [(row.severity, row.accuracy) for row in rows if row.corruption == name] for name in names}
    low, high = clean.interval
    facts = [
        ("Clean", f"{clean.accuracy:.2%}"),
        ("95 % interval", f"{low:.2%}–{high:.2%}"),
        ("Corrupted, mean", f"{mean_corrupted(rows):.2%}"),
    ]
    note = "The grey line is the accuracy on clean images. All curves share one scale."
    return [
        Facts("Result", facts, style="tiles"),
        FigureSection("Accuracy over severity", [draw_severities(curves, clean.accuracy)], note=note),
        TableSection("Numbers", table),
    ]
