"""How accuracy follows the compute of training (Figure 5 and Table 6 of the ViT paper): families × sizes × lengths."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from statistics import mean
from typing import Any

from vitrail.evaluation.vit_table6 import TABLE6
from vitrail.recipes.request import Given
from vitrail.reports.charts import Chart, Series
from vitrail.reports.page import TableSection
from vitrail.reports.tables import Column, Table
from vitrail.study.cells import Cell, Row, Stage, flops_of, open_labelled
from vitrail.study.families import model_of, plain_run, side_of
from vitrail.study.questions import Compute
from vitrail.study.report import ONE_SEED, Answer, Shown, answer_cells, count_of, group, series_of, summary
from vitrail.study.scaling import PowerLaw, fit_power_law, interval_of_exponent, pareto_front

COLUMNS = ("imagenet", "cifar10", "cifar100", "pets", "flowers102")
PUBLISHED = TableSection(
    "Published: Table 6",
    Table(
        tuple(Column(name) for name in ("model", "epochs", "ImageNet %", "mean of five sets %", "exaFLOP")),
        tuple(
            (one.name, one.epochs, one.imagenet, round(100 * one.accuracy(COLUMNS), 2), one.exaflops) for one in TABLE6
        ),
    ),
    "Pre-trained on JFT-300M, then fine-tuned. The paper: a ViT needs a half to a quarter of a ResNet's compute for the same mean.",
)


def answer(asked: Compute) -> Answer:
    _, given = open_labelled(asked.data)
    return answer_cells(asked, list(plan(asked, given)), show)


def plan(asked: Compute, given: Given) -> Iterator[Cell]:
    """Cheap cells first within each seed."""
    readouts = ("speed", *([f"5-shot@{asked.few_shot}"] if asked.few_shot else []))
    for seed in range(asked.seeds):
        for length in sorted(asked.lengths):
            for scale in sorted(asked.scales):
                for family in asked.families:
                    model = model_of(family, given, side_of(given), scale * asked.macs * 1e6)
                    steps = max(1, round(length * asked.steps))
                    run = dataclasses.replace(plain_run(asked, given, model, seed), length=f"{steps} steps")
                    place = {"family": family, "scale": scale, "length": length, "seed": seed}
                    yield Cell(place=place, stages=(Stage(run=run, readouts=readouts),), worth=flops_of(run, given))


def show(asked: Compute, rows: Sequence[Row]) -> Shown:
    laws = {family: law for family in asked.families if (law := law_of(rows, family))}
    number = f"5-shot@{asked.few_shot}"
    numbers = ["accuracy", *([number] if asked.few_shot else []), "gmacs", "flops", "images_per_s", "memory", "seconds"]
    question = (
        f"What does accuracy on {asked.data} cost? {', '.join(asked.families)} of {len(asked.scales)} sizes trained for "
        f"{len(asked.lengths)} lengths, with {count_of(asked.seeds, 'seed')}. Each training has its own schedule. Compute is "
        "6 × MACs × images, as in the paper's Table 6. images/s is a forward pass in batches of 64, the best of three; "
        "memory is that of the weights."
    )
    charts = [compute_chart(rows, laws), paper_chart()]
    table = summary(rows, ["family", "scale", "length"], numbers, "Compute")
    return Shown("Compute", question, table, conclude(asked, rows, laws), charts, [PUBLISHED])


def means(rows: Sequence[Row], family: str) -> list[tuple[float, float, float, str]]:
    """(FLOPs, mean accuracy, deviation, scale and length) of a family, from cheap to dear."""
    mine = [row for row in rows if row["family"] == family]
    spent = {place: one.mean for place, one in group(mine, ["scale", "length"], "flops").items()}
    found = group(mine, ["scale", "length"], "accuracy")
    return sorted((spent[place], one.mean, one.deviation or 0.0, f"×{place[0]:g}") for place, one in found.items())


def law_of(rows: Sequence[Row], family: str) -> tuple[PowerLaw, tuple[float, float]] | None:
    """error = floor + scale · FLOPs^(-exponent) through the family's front, with the exponent's interval."""
    points = means(rows, family)
    front = [points[at] for at in pareto_front([p[0] for p in points], [p[1] for p in points])]
    if len({p[0] for p in front}) < 3:
        return None
    costs, errors = [p[0] for p in front], [1 - p[1] for p in front]
    return fit_power_law(costs, errors), interval_of_exponent(costs, errors)


def compute_chart(rows: Sequence[Row], laws: dict[str, Any]) -> Chart:
    found = series_of(rows, "family", "flops", "accuracy", factor=1e-12, line=False)
    series = [dataclasses.replace(one, labels=[scale for *_, scale in means(rows, one.name)]) for one in found]
    for family, (law, _) in laws.items():
        costs = [p[0] for p in means(rows, family)]
        grid = [costs[0] * (costs[-1] / costs[0]) ** (at / 30) for at in range(31)]
        curve = [100 * (1 - law.error(cost)) for cost in grid]
        series.append(Series(f"law of {family}", [cost / 1e12 for cost in grid], curve, behind=True))
    return Chart("compute", "Accuracy over training compute", "TFLOP", "held-out accuracy, %", series, log=True,
                 note="Bars: standard deviation over seeds. Grey: the law through each family's front.")  # fmt: skip


def paper_chart() -> Chart:
    """Table 6 on its own scale: six decades of compute above."""
    kinds = {
        "ViT": lambda n: n.startswith("ViT"),
        "ResNet": lambda n: n.startswith("ResNet"),
        "hybrid": lambda n: "+" in n,
    }
    series = []
    for kind, holds in kinds.items():
        rows = sorted((row.exaflops, row.imagenet) for row in TABLE6 if holds(row.name))
        series.append(Series(kind, [cost for cost, _ in rows], [value for _, value in rows], line=False))
    return Chart("table-6", "The paper's Table 6", "exaFLOP of pre-training", "ImageNet accuracy, %", series, log=True)


def conclude(asked: Compute, rows: Sequence[Row], laws: dict[str, Any]) -> str:
    points = [
        (flops, value, f"{family} {name}") for family in asked.families for flops, value, _, name in means(rows, family)
    ]
    front = [points[at] for at in pareto_front([p[0] for p in points], [p[1] for p in points])]
    said = [
        "On the Pareto front, from cheap to dear: "
        + ", ".join(f"{name} {100 * value:.1f} %" for _, value, name in front)
        + "."
    ]
    for family, (law, (low, high)) in laws.items():
        said.append(
            f"{family}: error = {100 * law.floor:.1f} % + c · FLOPs^−{law.exponent:.2f} (95 % interval of the exponent "
            f"{low:.2f} to {high:.2f}, by resampling the points of its front)."
        )
    if "vit" in laws and "resnet" in laws:
        said.append(equal_accuracy(rows, laws["vit"][0], laws["resnet"][0]))
    said.append(
        "This is one data set at one learning rate, without pre-training: the paper's compute buys features for other sets. "
        "Few points support each law, so it says little beyond the measured range."
    )
    return " ".join(said)


def equal_accuracy(rows: Sequence[Row], vit: PowerLaw, resnet: PowerLaw) -> str:
    """How much compute the ViT needs for accuracies that both families reached."""
    ends = [[p[1] for p in means(rows, family)] for family in ("vit", "resnet")]
    low, high = max(min(side) for side in ends), min(max(side) for side in ends)
    errors = [1 - (low + (high - low) * at / 10) for at in range(1, 10)]
    ratios = [a / b for error in errors if (a := vit.cost(error)) and (b := resnet.cost(error))]
    if not ratios or high <= low:
        return "ViT and ResNet reach no common range of accuracies."
    ratio = math.exp(mean(map(math.log, ratios)))
    seen = f"{'confirmed' if ratio < 0.8 else 'contrary' if ratio > 1.25 else 'not seen'} at this scale"
    if len({row["seed"] for row in rows}) == 1:
        seen = ONE_SEED
    return (
        f"Between {100 * low:.1f} and {100 * high:.1f} % the ViT needs {ratio:.2g} times the ResNet's compute, by the laws. "
        f"The paper: 0.25 to 0.5 times; {seen}."
    )
