"""Ways of pre-training: one backbone, the same FLOPs, the same readouts.

The cost of a method is counted, not assumed: MAE drops tokens and gets more steps, a momentum teacher gets fewer.
"""

import dataclasses
from collections.abc import Iterator, Sequence

from vitrail.models import cost, zoo
from vitrail.objectives.classify import Classify
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.recipes.mae import small_encoder
from vitrail.recipes.pretraining import SMALL, small_run
from vitrail.recipes.request import Given
from vitrail.reports.charts import Chart
from vitrail.study.cells import Cell, Row, Stage, in_cell, open_labelled, size_model
from vitrail.study.label_questions import Pretraining
from vitrail.study.report import Answer, Shown, answer_cells, best_first, count_of, series_of, summary, weigh
from vitrail.training.run import Optim, Run

FROZEN = ("5-shot", "10-NN", "linear")
PROTOCOLS = (*FROZEN, "fine-tune")
TUNING = "200 steps"
DEFAULT: float = SMALL["mae"][0].mask_ratio


def answer(asked: Pretraining) -> Answer:
    _, given = open_labelled(asked.data)
    return answer_cells(asked, list(plan(asked, given)), show)


def plan(asked: Pretraining, given: Given) -> Iterator[Cell]:
    """All cells; seed by seed, so that a report of half of them compares."""
    for seed in range(asked.seeds):
        for method in asked.methods:
            for share in asked.shares if method != "none" else (0.0,):
                yield plan_cell(asked, given, method, seed, share)
        for ratio in asked.ratios:
            if ratio != DEFAULT or "mae" not in asked.methods:  # else the table's own
                yield plan_cell(asked, given, "mae", seed, max(asked.shares), ratio)


def plan_cell(
    asked: Pretraining, given: Given, method: str, seed: int, share: float, ratio: float | None = None
) -> Cell:
    """Pre-training, its readouts, and fine-tuning on a share of the labels: one schedule for all."""
    budget = share * asked.epochs * given.images * cost.train_flops(small_encoder(given, classes=given.classes))
    run, spent = plan_pretraining(asked, given, method, budget, seed, ratio)
    tuned = dataclasses.replace(
        run,
        objective=Classify(label_smoothing=0.1),
        model=zoo.change(run.model, classes=0),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup="10 %", layer_decay=0.75),
        batch_size=min(64, max(2, round(asked.labels * given.images))),
        length=TUNING,
    )
    stages = (
        Stage(run=run, accuracy="", readouts=FROZEN),
        Stage(run=tuned, share=asked.labels, seed=seed, accuracy="fine-tune"),
    )
    place = {"method": method, "budget": share, "seed": seed}
    if ratio is not None:
        place["mask ratio"] = ratio
    return Cell(place=place, stages=stages, facts={"flops": spent}, worth=share + 0.1)


def plan_pretraining(
    asked: Pretraining, given: Given, method: str, budget: float, seed: int, ratio: float | None = None
) -> tuple[Run, float]:
    """(the run that spends `budget` operations, what it spends exactly). A mask ratio of its own keeps the number of
    images of the default one, as the paper's Figure 5, whatever that costs.
    """
    objective, lr = SMALL.get(method, SMALL["mae"])
    run = small_run(given, objective, lr)
    if method in ("supervised", "none"):
        model = zoo.change(run.model, classes=given.classes)
        run = dataclasses.replace(run, objective=Classify(label_smoothing=0.1), model=model)
    sized = size_model(run, given)
    steps = max(1, round(budget / (run.objective.flops(sized) * run.batch_size)))
    if ratio is not None:
        assert isinstance(run.objective, Reconstruct)
        run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, mask_ratio=ratio))
    optim = run.optim if budget else dataclasses.replace(run.optim, lr=0.0)  # "none": as it was drawn
    run = in_cell(asked, run, seed, length=f"{steps} steps", optim=optim)
    return run, steps * run.batch_size * run.objective.flops(sized) if budget else 0.0


def show(asked: Pretraining, rows: Sequence[Row]) -> Shown:
    """One row a method in the table, at the largest budget; curves over compute and over MAE's mask ratio."""
    budget = [row for row in rows if "mask ratio" not in row.place]
    final = [row for row in budget if row["budget"] in (0, max(asked.shares))]
    trained = [row for row in budget if row["budget"]]
    own = [row for row in final if row["method"] == "mae" and DEFAULT in asked.ratios]
    ratios = [row for row in rows if "mask ratio" in row.place]
    ratios += [dataclasses.replace(row, place={**row.place, "mask ratio": DEFAULT}) for row in own]
    charts = [
        Chart(f"compute-{name}", f"{name}: accuracy over pre-training", "TFLOP", "accuracy, %",
              series_of(trained, "method", "flops", name, factor=1e-12), log=True, size=(4.4, 3.2))
        for name in PROTOCOLS if trained
    ]  # fmt: skip
    if asked.ratios and ratios:
        lines = [one for name in PROTOCOLS for one in series_of(ratios, "", "mask ratio", name)]
        charts.append(Chart("mask-ratio", "MAE's mask ratio", "mask ratio", "accuracy, %", lines))
    return Shown(
        "Pre-training arena",
        _question(asked),
        summary(final, ["method"], ["fine-tune", *FROZEN, "flops"], "The arena"),
        conclude(final, asked.seeds),
        charts,
    )


def conclude(rows: Sequence[Row], seeds: int) -> str:
    """The best way without labels against the next and against none, by fine-tuning."""
    found = best_first(rows, ["method"], "fine-tune")
    ways = [way for way in found if way[0] not in ("none", "supervised")]
    others = [*ways[1:2], *(way for way in found if way[0] == "none")] if ways else []
    said = [f"By fine-tuning, {weigh(ways[0], other)}." for other in others]
    limits = (
        f"This is one model at one budget, with {count_of(seeds, 'seed')} and one learning rate for each method. "
        "The order may change with any of them."
    )
    return " ".join([*said, limits])


def _question(asked: Pretraining) -> str:
    return (
        f"How good are the features of one small ViT on {asked.data}, trained by each method for the same number of "
        f"floating point operations: those of {asked.epochs:g} epochs with all labels? Operations are counted product by "
        "product, forward and backward, decoder and teacher among them.\n\n"
        "Then the encoder is frozen and read by 5 images of each class, by its 10 nearest neighbours and by a linear "
        f"probe. It is also fine-tuned on {asked.labels:.0%} of the labels. 'none' is the encoder as it was drawn. "
        "'supervised' saw all labels in pre-training: it is a ceiling, not a rival."
    )
