"""Few labels, many images: does pre-training on all of them beat spending the same compute on the labelled ones?

Both ways end with the same model, see the same labelled images and cost the same number of floating point operations.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from vitrail.models import zoo
from vitrail.objectives.classify import Classify
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.recipes.pretraining import SMALL, small_run
from vitrail.recipes.request import Given
from vitrail.reports.charts import Chart
from vitrail.study.cells import Cell, Row, Stage, flops_of, in_cell, open_labelled, size_model
from vitrail.study.label_questions import FewLabels
from vitrail.study.report import Answer, Shown, answer_cells, best_first, series_of, summary, weigh
from vitrail.study.subsets import take_share
from vitrail.training.run import Optim, Run

SCRATCH = "from scratch"
PIXELS = (Reconstruct(decoder_width=64, decoder_depth=1, decoder_heads=4, target="pixels"), 1.5e-3)
"""MAE for a few epochs: pixels as they are teach shapes sooner than normalised ones."""


def answer(asked: FewLabels) -> Answer:
    return answer_cells(asked, list(plan(asked)), show)


def plan(asked: FewLabels) -> Iterator[Cell]:
    """Both ways with each seed."""
    splits, given = open_labelled(asked.data)
    for seed in range(asked.seeds):
        labelled = len(take_share(splits.train, asked.labels, seed))
        pre, tuned, scratch = plan_runs(asked, given, labelled, seed)
        few = {"share": asked.labels, "seed": seed}
        yield Cell(
            place={"way": asked.method, "seed": seed},
            stages=(Stage(run=pre, accuracy=""), Stage(run=tuned, **few)),
            worth=2.0,
        )
        yield Cell(place={"way": SCRATCH, "seed": seed}, stages=(Stage(run=scratch, **few),))


def plan_runs(asked: FewLabels, given: Given, labelled: int, seed: int) -> tuple[Run, Run, Run]:
    """(pre-training on all images, fine-tuning on the labelled, training on those from scratch): the third costs what
    the first two do together.
    """
    objective, lr = PIXELS if asked.method == "mae" else SMALL[asked.method]
    pre = small_run(given, objective, lr)
    length = f"{max(1, round(asked.epochs * given.images / 64))} steps"
    optim = dataclasses.replace(pre.optim, name=asked.optim)
    pre = in_cell(
        asked, pre, seed, model=narrow(pre.model), optim=optim, batch_size=64, length=length, save_every="10 %"
    )
    tuned = plan_finetuning(pre, asked, labelled)
    spent = flops_of(pre, given) + flops_of(tuned, given)
    steps = tuned.objective.steps_for(spent, size_model(tuned, given), tuned.batch_size)
    scratch = dataclasses.replace(
        tuned,
        length=f"{steps} steps",
        optim=dataclasses.replace(tuned.optim, lr=1e-3, layer_decay=1.0),
    )
    return pre, tuned, scratch


def narrow(model: Any) -> Any:
    """Of 96 channels: what minutes of one core can teach."""
    width = min(96, model.width)
    return dataclasses.replace(model, width=width, mlp_width=4 * width)


def plan_finetuning(pre: Run, asked: FewLabels, labelled: int) -> Run:
    """Fine-tuning of the encoder: MAE's, at small size, with milder layer decay since so few epochs teach the lower layers
    less."""
    return dataclasses.replace(
        pre,
        model=zoo.change(pre.model, drop_path=0.1),
        objective=Classify(label_smoothing=0.1),
        optim=Optim(name=asked.optim, lr=2e-3, weight_decay=0.05, warmup="10 %", layer_decay=0.85),
        batch_size=min(64, labelled),
        length=f"{asked.tuning} steps",
    )


def show(asked: FewLabels, rows: Sequence[Row]) -> Shown:
    question = (
        f"The labels of {rows[0]['images']:,.0f} images of {asked.data} are known ({asked.labels:.2%} of every class). Is "
        f"it better to spend compute on those alone, or first on all images without labels ({asked.method})? Both ways end "
        "with the same model and see the same labelled images. Both cost the same number of floating point operations, "
        "to a step's worth."
    )
    chart = Chart(
        "ways", "Few labels", "way", "held-out accuracy, %", series_of(rows, "way", "way", "accuracy", line=False)
    )
    return Shown(
        "Few labels", question, summary(rows, ["way"], ["accuracy", "flops", "seconds"], "Few labels"),
        verdict(rows) + ". The learning rates are fixed, not chosen for these images.", [chart],
    )  # fmt: skip


def verdict(rows: Sequence[Row]) -> str:
    """A sentence: how far apart the two ways are, and whether that is more than the spread over seeds."""
    ways = sorted(best_first(rows, ["way"]), key=lambda way: way[0] == SCRATCH)
    return weigh(*ways) if len(ways) == 2 else f"Only {ways[0][0]} has numbers"
