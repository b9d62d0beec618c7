"""Choices of the ViT paper's appendix, each changed while all else stays: a table with the published numbers behind it."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

from vitrail.config import with_changes
from vitrail.recipes.request import Given
from vitrail.reports.charts import Chart
from vitrail.reports.page import TableSection
from vitrail.scores.statistics import spread
from vitrail.study.cells import Cell, Row, Stage, Value, flops_of, open_labelled
from vitrail.study.families import model_of, plain_run, regularise, side_of
from vitrail.study.published import FIGURE_8, FIGURE_9, TABLE_7, TABLE_8
from vitrail.study.questions import Ablation
from vitrail.study.report import (
    ONE_SEED,
    Answer,
    Shown,
    answer_cells,
    best_first,
    count_of,
    margin_of,
    series_of,
    summary,
    values_of,
    weigh,
)
from vitrail.training.run import Run

Change = dict[str, Any]
"""Values of a run by dotted name; `family` is a model of the ladder in place of the ViT."""
Planned = Iterator[tuple[dict[str, Value], *tuple[Change, ...]]]
"""Places, each with what changes in its training, or in one after the other."""


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper, as a comparison of two places."""

    says: str
    first: dict[str, Value]
    second: dict[str, Value]
    number: str = "accuracy"
    kind: Literal["better", "alike", "no worse"] = "better"
    """How the first compares with the second."""


@dataclass(frozen=True)
class Lesson:
    """One ablation: what it asks, what it changes in the run that all are compared with, and how it is read."""

    asks: str
    plan: Callable[[Run, Given], Planned]
    axes: tuple[str, ...]
    claims: tuple[Claim, ...]
    numbers: tuple[str, ...] = ("accuracy",)
    published: TableSection | None = None
    readouts: tuple[str, ...] = ()


def answer(asked: Ablation) -> Answer:
    return answer_cells(asked, list(plan(asked)), show)


def plan(asked: Ablation) -> Iterator[Cell]:
    """The cells of the ablation, seed by seed."""
    _, given = open_labelled(asked.data)
    lesson = LESSONS[asked.which]
    for seed in range(asked.seeds):
        for place, *changes in lesson.plan(base(asked, given, seed), given):
            runs = [with_changes(base(asked, given, seed, one.pop("family", "vit")), one) for one in changes]
            stages = [Stage(run=run, accuracy="") for run in runs[:-1]]
            stages.append(Stage(run=runs[-1], readouts=lesson.readouts))
            yield Cell(place={**place, "seed": seed}, stages=tuple(stages), worth=sum(flops_of(r, given) for r in runs))


def base(asked: Ablation, given: Given, seed: int, family: str = "vit") -> Run:
    """The run that everything is compared with."""
    return plain_run(asked, given, model_of(family, given, side_of(given), asked.macs * 1e6), seed)


def positions(run: Run, given: Given) -> Planned:
    for kind in ("none", "learned", "learned-2d", "relative", "rotary"):
        for at in ("stem", "layers", "shared") if kind.startswith("learned") else ("stem",):
            yield {"positions": kind, "at": at}, {"model.positions": kind, "model.extras.positions_at": at}


def head(run: Run, given: Given) -> Planned:
    for pool in ("cls", "mean"):
        for factor in (0.3, 1.0, 3.0):
            rate = float(f"{factor * run.optim.lr:.2g}")
            yield {"pool": pool, "lr": rate}, {"model.pool": pool, "optim.lr": rate}


def optimiser(run: Run, given: Given) -> Planned:
    for name in ("resnet", "resnet*4"):
        for rule, factor in (("adam", 1), ("sgd", 10), ("sgd", 50)):
            optim = {"name": rule, "lr": factor * run.optim.lr, "weight_decay": 1e-4}
            place: dict[str, Value] = {"model": name, "optimiser": f"{rule}, lr {optim['lr']:g}"}
            yield place, {"family": name, "optim": optim}


def shape(run: Run, given: Given) -> Planned:
    model: Any = run.model
    yield {"changed": "nothing", "to": "base"}, {}
    for factor in (0.5, 2):
        wide = max(8, round(factor * model.width / model.heads / 4) * 4) * model.heads
        deep, hidden = max(1, round(factor * model.depth)), round(factor * model.mlp_width)
        yield {"changed": "depth", "to": str(deep)}, {"model.depth": deep}
        yield {"changed": "width", "to": str(wide)}, {"model": {"width": wide, "mlp_width": 4 * wide}}
        yield {"changed": "mlp_width", "to": str(hidden)}, {"model.mlp_width": hidden}
    side, patch = model.image[0], model.patch[0]
    for size in (patch // 2, 2 * patch):
        if size >= 1 and side % size == 0:
            yield {"changed": "patch", "to": str(size)}, {"model.patch": (size, size)}


def resolution(run: Run, given: Given) -> Planned:
    """The third way has the steps that cost what the second does."""
    step, (large, _) = run.model.multiple, run.preprocess.size
    side = max(step, round(max(run.preprocess.size) / 2 / step) * step)
    steps = int(run.length.split()[0])
    low, tuned = {"preprocess.size": (side, side)}, {"length": f"{max(1, steps // 4)} steps"}
    spent = sum(flops_of(with_changes(run, change), given) for change in (low, tuned))
    yield {"trained": f"at {side} px"}, dict(low)
    yield {"trained": f"at {side}, then {large} px"}, low, tuned
    whole = max(1, round(spent / flops_of(run, given) * steps))
    yield {"trained": f"at {large} px, same FLOPs"}, {"length": f"{whole} steps"}


def patch_order(run: Run, given: Given) -> Planned:
    for kind in ("none", "learned"):
        yield {"positions": kind}, {"model.positions": kind}


def equivariance(run: Run, given: Given) -> Planned:
    for name in ("vit", "resnet", "hybrid"):
        yield {"model": name}, {"family": name}


def regularisation(run: Run, given: Given) -> Planned:
    none = {"optim.weight_decay": 0.0}
    yield {"with": "none"}, none
    for decay in (0.1, 0.3):
        yield {"with": f"weight decay {decay}"}, {"optim.weight_decay": decay}
    yield {"with": "dropout 0.1"}, none | {"model.dropout": 0.1}
    yield {"with": "drop path 0.1"}, none | {"model.extras.drop_path": 0.1}
    yield {"with": "label smoothing 0.1"}, none | {"objective.label_smoothing": 0.1}
    for strength in ("light", "strong"):
        yield {"with": f"all, {strength}"}, regularise(run.model, strength)


LESSONS: dict[str, Lesson] = {
    "positions": Lesson(
        "How much do positions help, and of which kind?",
        positions, ("positions", "at"),
        (
            Claim("positions help", {"positions": "learned", "at": "stem"}, {"positions": "none"}),
            Claim("2-D positions are not better than 1-D", {"positions": "learned", "at": "stem"},
                  {"positions": "learned-2d", "at": "stem"}, kind="no worse"),
            Claim("at every layer they are no better than at the stem", {"positions": "learned", "at": "stem"},
                  {"positions": "learned", "at": "layers"}, kind="alike"),
        ),
        ("accuracy", "5-shot"), TABLE_8, ("5-shot",),
    ),
    "head": Lesson(
        "Class token or mean of the patches, each at three learning rates?",
        head, ("pool", "lr"), (Claim("both are alike at the right rate", {"pool": "cls"}, {"pool": "mean"}, kind="alike"),),
        published=FIGURE_9,
    ),
    "optimiser": Lesson(
        "Adam or SGD to train a ResNet?",
        optimiser, ("model", "optimiser"), (), ("accuracy", "5-shot"), TABLE_7, ("5-shot",),
    ),
    "shape": Lesson(
        "Depth, width, width of the MLPs or size of the patches: which makes a ViT better?",
        shape, ("changed", "to"), (), ("accuracy", "gmacs"), FIGURE_8,
    ),
    "resolution": Lesson(
        "Train at low resolution and fine-tune at high, or train at high for the same FLOPs?",
        resolution, ("trained",), (),
    ),
    "patch-order": Lesson(
        "Does a ViT know where its patches are? The patches of held-out images stand in another order.",
        patch_order, ("positions",),
        (
            Claim("with positions the right order is needed", {"positions": "none"}, {"positions": "learned"}, "shuffled patches"),
            Claim("positions help where the order is right", {"positions": "learned"}, {"positions": "none"}),
        ),
        ("accuracy", "shuffled patches"), readouts=("shuffled patches",),
    ),
    "equivariance": Lesson(
        "Do answers and features stay where they are when the image moves by some pixels?",
        equivariance, ("model",),
        (
            Claim("a CNN bears a shift better (section 3.1)", {"model": "resnet"}, {"model": "vit"}, "1 px agree"),
            Claim("the same, by the features", {"model": "resnet"}, {"model": "vit"}, "1 px cosine"),
        ),
        ("accuracy", "1 px agree", "2 px agree", "4 px agree", "8 px agree"), readouts=("shifts",),
    ),
    "regularisation": Lesson("Which regularisation helps so small a training set?", regularisation, ("with",), ()),
}  # fmt: skip


def show(asked: Ablation, rows: Sequence[Row]) -> Shown:
    lesson = LESSONS[asked.which]
    numbers = [name for name in lesson.numbers if rows[0][name] is not None]
    charts = [chart_of(asked, lesson, rows)]
    if asked.which == "equivariance":
        charts = [shift_chart(rows, what) for what in ("right", "agree", "cosine")]
    question = (
        f"{lesson.asks}\n\nModels of about {asked.macs:g} million multiply-accumulates trained for {asked.steps:,} steps of "
        f"{asked.batch} images of {asked.data}, with {count_of(asked.seeds, 'seed')}. All else stays: "
        f"AdamW, learning rate {asked.lr:g}, no augmentation."
    )
    table = summary(rows, lesson.axes, [*numbers, "seconds"], asked.which)
    published = [lesson.published] if lesson.published else []
    return Shown(f"Ablation: {asked.which}", question, table, conclude(lesson, rows, asked.seeds), charts, published)


def chart_of(asked: Ablation, lesson: Lesson, rows: Sequence[Row]) -> Chart:
    """Accuracy at each place; over the learning rate where the lesson has one."""
    if "lr" in lesson.axes:
        return Chart(
            asked.which, asked.which, "lr", "held-out accuracy, %", series_of(rows, "pool", "lr", "accuracy"), log=True
        )
    named = [dataclasses.replace(row, place={"at": ", ".join(str(row[axis]) for axis in lesson.axes)}) for row in rows]
    shares = [number for number in lesson.numbers if number != "gmacs"]
    series = [one for number in shares for one in series_of(named, "", "at", number, line=False)]
    return Chart(asked.which, asked.which, " and ".join(lesson.axes), "%", series)


def shift_chart(rows: Sequence[Row], what: str) -> Chart:
    """One line a model over the pixels of the shift."""
    says = {"right": "accuracy, %", "agree": "answers that stay, %", "cosine": "cosine of the features × 100"}
    spread = [
        Row(place={**row.place, "px": int(name.split()[0])}, numbers={what: value})
        for row in rows for name, value in row.numbers.items() if name.endswith(what)
    ]  # fmt: skip
    return Chart(f"shift-{what}", "Shifted to the right", "pixels", says[what], series_of(spread, "model", "px", what))


def conclude(lesson: Lesson, rows: Sequence[Row], seeds: int) -> str:
    """Each claim of the paper against these numbers; the order of the places where there is no claim."""
    said = [sentence for claim in lesson.claims if (sentence := judge(claim, rows))]
    if not lesson.claims:
        order = [f"{name} {spread(values)}" for name, values in best_first(rows, lesson.axes)]
        said.append(f"From best to worst: {'; '.join(order)}.")
    said.append(
        f"This is one set of images, one small model and {count_of(seeds, 'seed')}: it says nothing on large models "
        "or long training."
    )
    if "lr" not in lesson.axes:
        said.append("The learning rate was not chosen for each place.")
    return " ".join(said)


def judge(claim: Claim, rows: Sequence[Row]) -> str:
    """One claim against the rows, by the larger spread over seeds; of several places the best."""
    first, second = (_best(rows, place, claim.number) for place in (claim.first, claim.second))
    if not first or not second:
        return ""
    names = [", ".join(map(str, place.values())) for place in (claim.first, claim.second)]
    seen = verdict(claim.kind, *margin_of(first, second))
    what = "" if claim.number == "accuracy" else f" ({claim.number})"
    return f"The paper: {claim.says}; {seen}{what}: {weigh((names[0], first), (names[1], second))}."


def verdict(kind: str, margin: float, wide: float | None) -> str:
    """ "confirmed at this scale", "not seen" or "contrary", by a margin and a spread; one seed has no spread to go by."""
    if wide is None:
        return ONE_SEED
    apart = abs(margin) > wide
    holds = {"better": apart and margin > 0, "alike": not apart, "no worse": not apart or margin > 0}[kind]
    word = "confirmed" if holds else "contrary" if apart and margin < 0 else "not seen"
    return f"{word} at this scale"


def _best(rows: Sequence[Row], place: dict[str, Value], number: str) -> list[float]:
    """The values of the best places that have these values."""
    mine = [row for row in rows if all(row[axis] == value for axis, value in place.items())]
    rest = [axis for axis in (mine[0].place if mine else ()) if axis not in (*place, "seed")]
    return max(values_of(mine, rest, number).values(), key=mean, default=[])
