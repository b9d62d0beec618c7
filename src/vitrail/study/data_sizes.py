"""How accuracy follows the number of training images (Figures 3 and 4 of the ViT paper): ViT, CNN and hybrid of one cost.

Subsets are nested and balanced, drawn by the seed. All models train for the same steps, so that each cell of a family
costs the same, whatever its number of images.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from vitrail.config import with_changes
from vitrail.models import cost
from vitrail.recipes.request import Given
from vitrail.reports.charts import Chart
from vitrail.reports.page import TableSection
from vitrail.reports.tables import Column, Table
from vitrail.study.cells import Cell, Row, Stage, Value, flops_of, open_labelled
from vitrail.study.families import model_of, plain_run, regularise, side_of
from vitrail.study.questions import DataSize
from vitrail.study.report import Answer, Shown, answer_cells, choose, count_of, series_of, summary, values_of
from vitrail.study.scaling import Crossing, find_crossing

STRENGTHS = ("none", "light", "strong")


def answer(asked: DataSize) -> Answer:
    _, given = open_labelled(asked.data)
    return answer_cells(asked, list(plan(asked, given)), show)


def plan(asked: DataSize, given: Given) -> Iterator[Cell]:
    """Small sets first within each seed."""
    shots = (f"5-shot@{asked.few_shot}",) if asked.few_shot else ()
    for seed in range(asked.seeds):
        for size in sizes_of(asked, given):
            for name in asked.models:
                for strength in STRENGTHS if asked.reading == "regularised" else ("none",):
                    run = plain_run(asked, given, model_of(name, given, side_of(given), asked.macs * 1e6), seed)
                    # validation images choose among the weights of five evaluations, which is early stopping
                    run = with_changes(run, {**regularise(run.model, strength), "evaluate_every": "20 %"})
                    place: dict[str, Value] = {"model": name, "images": size, "seed": seed}
                    if asked.reading == "regularised":
                        place["regularisation"] = strength
                    stage = Stage(run=run, images=size, seed=seed, validate=True, readouts=shots)
                    yield Cell(place=place, stages=(stage,), worth=flops_of(run, given))


def sizes_of(asked: DataSize, given: Given) -> tuple[int, ...]:
    """The sizes, or five between a hundredth of the set and all of it, equally far apart in their logarithm."""
    least = max(2 * given.classes, given.images // 100)
    return asked.sizes or tuple(int(size) for size in np.geomspace(least, given.images, 5).round())


def show(asked: DataSize, rows: Sequence[Row]) -> Shown:
    rows = list(choose(rows, ("model", "images", "seed")).values())
    shots = f"5-shot@{asked.few_shot}"
    numbers = ["accuracy", *([shots] if asked.few_shot else []), "validation"]
    _, given = open_labelled(asked.data)
    charts = [
        Chart(f"data-size-{index}", f"{number} over the number of training images", "training images", "%",
              series_of(rows, "model", "images", number), log=True)
        for index, number in enumerate(numbers[:-1])
    ]  # fmt: skip
    return Shown(
        "Data size",
        question(asked),
        summary(rows, ["model", "images"], [*numbers, "steps", "seconds"], "Data size"),
        conclude(asked, rows),
        charts,
        [costs(asked, given)],
    )


def question(asked: DataSize) -> str:
    how = {
        "fixed": "No model has any regularisation. A fifth of its training images chooses among five points of its training, "
        "which is early stopping (the paper's Figure 4).",
        "regularised": "The strength of weight decay, dropout and label smoothing is chosen for each cell by a fifth of its "
        "training images (the paper's Figure 3). The test images see the chosen cell alone.",
    }[asked.reading]
    return (
        f"How does the accuracy on {asked.data} follow the number of training images? {how}\n\n"
        f"All train for {asked.steps:,} steps of {asked.batch} images, with {count_of(asked.seeds, 'seed')}. A seed draws subset, "
        "start and order. A smaller subset lies inside each larger one, and classes are as equal as they can be."
    )


def costs(asked: DataSize, given: Given) -> TableSection:
    """How well the models match."""
    rows, first = [], 0
    for name in asked.models:
        model = model_of(name, given, side_of(given), asked.macs * 1e6)
        macs = cost.macs(model)
        first = first or macs
        rows.append((name, model.family, macs / 1e6, 100 * (macs / first - 1), cost.count_parameters(model)))
    columns = (
        Column("model"),
        Column("family"),
        Column("MMAC", "{:.3f}"),
        Column("to the first %", "{:+.1f}"),
        Column("parameters", "{:,}"),
    )
    return TableSection(
        "Cost of the models", Table(columns, tuple(rows), "Cost"), "Counted product by product, of one image."
    )


def conclude(asked: DataSize, rows: Sequence[Row]) -> str:
    said = [f"{one} and {other}: {tell_crossing(rows, one, other)}" for one, other in pairs(rows)]
    limits = (
        f"The interval draws the seeds again (n = {asked.seeds}); with so few it is coarse. Another length of training, "
        "learning rate or cost may move the crossing. The paper pre-trains on 9 to 303 million images and reads by few-shot: "
        "its CNN is ahead on 9 million, its ViT from 90 million."
    )
    return " ".join([*said, limits])


def pairs(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """ViTs and hybrids against the ResNets."""
    names = list(dict.fromkeys(row["model"] for row in rows))
    convolutional = [name for name in names if name.startswith("r") and "+" not in name]
    return [(name, other) for name in names if name not in convolutional for other in convolutional]


def cross_of(rows: Sequence[Row], first: str, second: str) -> tuple[Crossing, list[float]]:
    """Where the first model goes above the second, and the margins at each size."""
    found = values_of(rows, ["model", "images"])
    sizes = sorted({size for _, size in found if (first, size) in found and (second, size) in found})
    one, other = ([found[name, size] for size in sizes] for name in (first, second))
    margins = [float(np.mean(a) - np.mean(b)) for a, b in zip(one, other, strict=True)]
    return find_crossing(sizes, one, other), margins


def tell_crossing(rows: Sequence[Row], first: str, second: str) -> str:
    """Where the curves cross, with the interval; or that they do not, and who is ahead."""
    crossing, margins = cross_of(rows, first, second)
    ends = f"{100 * margins[0]:+.1f} points at the smallest size, {100 * margins[-1]:+.1f} at the largest"
    if crossing.at is None:
        ahead = first if margins[-1] > 0 else second
        some = f" {crossing.share:.0%} of the resamples cross." if crossing.share else ""
        return f"no crossing from {second} to {first} in this range ({ends}); {ahead} is ahead at the largest.{some}"
    return (
        f"{first} goes above {second} at {crossing.at:,.0f} images (95 % interval {crossing.low:,.0f} to {crossing.high:,.0f}; "
        f"{crossing.share:.0%} of the resamples cross; {ends})."
    )
