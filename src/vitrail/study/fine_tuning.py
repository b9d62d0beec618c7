"""Transfer (Tables 2 and 5 of the ViT paper): checkpoints fine-tuned on many sets; rates chosen on held-out training images."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from functools import cache, partial

from vitrail import recipes
from vitrail.models import zoo
from vitrail.recipes import Given, recipe
from vitrail.recipes.request import channels_of, in_channels, read_pretrained
from vitrail.reports.charts import Chart
from vitrail.study.cells import Cell, Row, Stage, Value, flops_of, in_cell, open_labelled, plan_or_refuse, run_cells
from vitrail.study.published import TABLE_2
from vitrail.study.questions import Transfer
from vitrail.study.report import Answer, Shown, best_first, choose, count_of, series_of, summary, weigh, write_answer
from vitrail.training.run import Run

SCRATCH = "from scratch"


def answer(asked: Transfer) -> Answer:
    """First every rate with the first seed, judged by validation images; then the best of them with all seeds."""
    run_of.cache_clear()  # images and weights may have changed since
    single = len(asked.rates) == 1
    tried = run_cells(asked, [] if single else list(plan(asked, asked.rates, range(1), choosing=True)))
    best = choose_rates(list(tried))
    cells = plan(asked, asked.rates, range(asked.seeds))
    found = run_cells(
        asked, [c for c in cells if single or best.get((c.place["set"], c.place["model"])) == c.place.get("rate", "")]
    )
    found.failed |= tried.failed
    return write_answer(asked, found, show)


def plan(asked: Transfer, rates: Sequence[float], seeds: range, *, choosing: bool = False) -> Iterator[Cell]:
    """A cell for each seed, set, model and rate; one for a model or a set that cannot be read, without a rate."""
    names = [*asked.models, *([SCRATCH] if asked.scratch else [])]
    for seed, data, name, rate in itertools.product(seeds, asked.sets, names, rates):
        place: dict[str, Value] = {"set": data, "model": name, "seed": seed}
        yield plan_or_refuse(place, partial(plan_cell, asked, data, name, seed, rate, choosing))


def plan_cell(asked: Transfer, data: str, name: str, seed: int, rate: float, choosing: bool) -> Cell:
    """The cell of a factor of the recipe's rate."""
    run = run_of(asked, data, name, seed)
    optim = dataclasses.replace(run.optim, lr=float(f"{rate * run.optim.lr:.3g}"))
    place: dict[str, Value] = {"set": data, "model": name, "rate": optim.lr, "seed": seed}
    if choosing:
        place["part"] = "to choose"
    run = dataclasses.replace(run, optim=optim)
    stage = Stage(run=run, validate=choosing, accuracy="" if choosing else "accuracy")
    return Cell(place=place, stages=(stage,), worth=flops_of(run, open_labelled(data)[1]))


@cache
def run_of(asked: Transfer, data: str, name: str, seed: int) -> Run:
    """The recipe's run on a set, from these weights; or of the first model's kind, from a new start."""
    splits, given = open_labelled(data)
    start, channels = read_pretrained(asked.models[0] if name == SCRATCH else name), channels_of(splits.train)
    if channels != start.preprocess.channels:
        start = dataclasses.replace(start, preprocess=in_channels(start.preprocess, channels))
    told = Given(images=given.images, classes=given.classes, shape=given.shape, channels=channels, pretrained=start)
    run = recipe(asked.recipe or recipes.choose(told)[0], told)
    if name == SCRATCH:
        fresh = zoo.change(run.model, classes=0)
        run = dataclasses.replace(
            run, model=fresh, weights=None, head="zero", optim=dataclasses.replace(run.optim, layer_decay=1.0)
        )
    return in_cell(asked, run, seed, data=data, length=asked.length or run.length)


def choose_rates(rows: Sequence[Row]) -> dict[tuple[Value, ...], Value]:
    """The rate of the best validation score, for each set and model."""
    return {place: row["rate"] for place, row in choose(rows, ("set", "model")).items()}


def show(asked: Transfer, rows: Sequence[Row]) -> Shown:
    many = len(asked.rates)
    rate = f"the best of {many} on a fifth of the training images" if many > 1 else "one, and not chosen"
    question = (
        f"How good are {count_of(len(asked.models), 'checkpoint')} after fine-tuning on {', '.join(asked.sets)}? The learning "
        f"rate is {rate}. With it {count_of(asked.seeds, 'seed')} trained on all training images, and met the test images."
    )
    table = summary(rows, ["set", "model", "rate"], ["accuracy", "images", "seconds"], "Transfer")
    chart = Chart(
        "transfer", "Fine-tuned", "set", "accuracy, %", series_of(rows, "model", "set", "accuracy", line=False)
    )
    return Shown("Transfer", question, table, conclude(rows), [chart], [TABLE_2])


def conclude(rows: Sequence[Row]) -> str:
    """On each set the best model against the next."""
    said = []
    for data in dict.fromkeys(row["set"] for row in rows):
        best, *others = best_first([row for row in rows if row["set"] == data], ["model"])
        if others:
            said.append(f"On {data}: {weigh(best, others[0])}.")
    said.append("The spread is that of seeds on one test set; another set may order the models otherwise.")
    return " ".join(said)
