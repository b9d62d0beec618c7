"""The arena: one backbone, every way of pre-training, the same FLOPs, the same readouts.

What a method costs is counted, not assumed: MAE's dropped tokens buy it more steps, a momentum teacher buys fewer.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.batches.loader import eval_batches
from vitrail.errors import ConfigError, DataError, suggest
from vitrail.evaluate.features import extract
from vitrail.evaluate.fewshot import few_shot
from vitrail.evaluate.knn import knn
from vitrail.evaluate.labelled import Labelled, labelled
from vitrail.evaluate.linear import linear_probe
from vitrail.images.sources import Source, Splits, open_data
from vitrail.models import cost
from vitrail.objectives.classify import Classify
from vitrail.objectives.counting import flops, steps_for
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.recipes.given import Given
from vitrail.recipes.mae import small_encoder
from vitrail.recipes.pretraining import SMALL, small_run
from vitrail.train.loop import train
from vitrail.train.run import Hardware, Optim, Run
from vitrail.weights.bundle import load

SUPERVISED, NONE = "supervised", "none"
METHODS = (NONE, SUPERVISED, *SMALL)
"""No pre-training and all labels are the floor and the ceiling of the others."""
PROTOCOLS = ("5-shot", "10-NN", "linear", "fine-tune")


@dataclass(frozen=True, kw_only=True)
class Arena:
    """What is compared, and how long."""

    data: str
    methods: tuple[str, ...] = METHODS
    seeds: int = 3
    epochs: float = 10.0
    """Of supervised training: its FLOPs are the budget of every method."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Of that budget, the points of the figure; the table shows the last."""
    labels: float = 0.05
    """Share of the training labels that fine-tuning may see."""
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """MAE's mask ratios of the second figure; none leaves it out."""
    hardware: Hardware = dataclasses.field(default_factory=Hardware)

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                hint = suggest(method, METHODS)
                raise ConfigError(f"there is no method {method!r}", allowed=", ".join(METHODS), next_step=hint)
        if self.seeds < 1 or self.epochs <= 0 or not 0 < self.labels <= 1 or not self.shares or min(self.shares) <= 0:
            raise ConfigError(
                f"seeds = {self.seeds}, epochs = {self.epochs}, labels = {self.labels}, shares = {self.shares}",
                allowed="one seed or more, epochs and shares above 0, labels a share of the training labels",
            )


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number: how well one model answers by one protocol."""

    study: str
    """`budget` or `ratio`."""
    method: str
    seed: int
    flops: float
    """Of pre-training, all of it."""
    protocol: str
    accuracy: float
    mask_ratio: float | None = None


def run_arena(asked: Arena, folder: Path, say: Callable[[str], object] = lambda text: None) -> Iterator[Cell]:
    """Every cell, as it is measured. Runs lie in `folder` while they last and are removed once read."""
    splits = open_data(asked.data)
    if len(splits.train.classes) < 2:
        raise DataError(f"{asked.data} has no classes to read out by", next_step="the arena needs labelled images")
    given = Given(images=len(splits.train), classes=len(splits.train.classes), shape=splits.train.shape)
    budget = asked.epochs * len(splits.train) * cost.train_flops(small_encoder(given, classes=given.classes))
    for seed in range(asked.seeds):
        for method in asked.methods:
            for share in asked.shares if method != NONE else (0.0,):
                run, spent = pretraining(asked, given, method, share * budget, seed)
                say(f"{method}, seed {seed}: {spent / 1e12:.3g} TFLOP")
                for protocol, accuracy in outcome(asked, run, spent, splits, folder / f"{method}-{share:g}-{seed}"):
                    yield Cell(
                        study="budget", method=method, seed=seed, flops=spent, protocol=protocol, accuracy=accuracy
                    )
        for ratio in asked.ratios:
            run, spent = pretraining(asked, given, "mae", budget, seed, ratio)
            say(f"mae hiding {ratio:.0%}, seed {seed}: {spent / 1e12:.3g} TFLOP")
            for protocol, accuracy in outcome(asked, run, spent, splits, folder / f"ratio-{ratio:g}-{seed}"):
                yield Cell(
                    study="ratio",
                    method="mae",
                    seed=seed,
                    flops=spent,
                    protocol=protocol,
                    accuracy=accuracy,
                    mask_ratio=ratio,
                )


def pretraining(
    asked: Arena, given: Given, method: str, budget: float, seed: int, ratio: float | None = None
) -> tuple[Run, float]:
    """(the run that spends `budget` operations, what it spends exactly). A mask ratio of its own keeps the number of
    images of the default one, as the paper's Figure 5, whatever that costs.
    """
    objective, lr = SMALL.get(method, SMALL["mae"])
    run = small_run(given, objective, lr)
    if method in (SUPERVISED, NONE):
        model: Any = dataclasses.replace(run.model, classes=given.classes)  # pyrefly: ignore[unexpected-keyword]
        run = dataclasses.replace(run, objective=Classify(label_smoothing=0.1), model=model)
    channels = run.preprocess.channels
    sized = dataclasses.replace(run.model, channels=channels)  # pyrefly: ignore[bad-argument-type, unexpected-keyword]
    steps = steps_for(budget, run.objective, sized, run.batch_size)
    if ratio is not None:
        assert isinstance(run.objective, Reconstruct)
        run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, mask_ratio=ratio))
    spent = steps * run.batch_size * flops(run.objective, sized) if budget else 0.0
    length = f"{steps} steps"
    run = dataclasses.replace(
        run,
        data=asked.data,
        seed=seed,
        length=length,
        evaluate_every=length,
        save_every=length,
        hardware=asked.hardware,
        optim=run.optim if budget else dataclasses.replace(run.optim, lr=0.0),  # "none": as it was drawn
    )
    return run, spent


def outcome(asked: Arena, run: Run, spent: float, splits: Splits, folder: Path) -> Iterator[tuple[str, float]]:
    """(protocol, accuracy) of a pre-trained model."""
    shutil.rmtree(folder, ignore_errors=True)
    train(run, out=folder, quiet=True, splits=splits)
    yield from readouts(load(folder / "last"), splits)
    yield "fine-tune", finetuned(asked, run, splits, folder)
    shutil.rmtree(folder)


def readouts(model: Any, splits: Splits) -> Iterator[tuple[str, float]]:
    """The frozen features by three protocols; the mean over the draws of few-shot."""
    train_set, test = (features_of(model, source) for source in (splits.train, splits.test))
    shots = min(5, int(train_set.counts.min()))
    yield "5-shot", float(np.mean([cell.accuracy for cell in few_shot(train_set, test, shots=(shots,))]))
    yield "10-NN", knn(train_set, test, k=(min(10, len(train_set)),))[0].accuracy
    yield "linear", linear_probe(train_set, test).accuracy


def features_of(model: Any, source: Source, most: int = 10_000) -> Labelled:
    """Features of the source's images, evenly chosen where there are more than `most`."""
    if len(source) > most:
        source = source.subset(np.linspace(0, len(source) - 1, most, dtype=np.int64))
    batches = eval_batches(source, preprocess=model.record.preprocess, batch_size=512)
    found = extract(model, batches, what="features")
    return labelled(found.features, found.targets, len(source.classes))


def finetuned(asked: Arena, run: Run, splits: Splits, folder: Path) -> float:
    """Held-out accuracy after fine-tuning on the share of labels, the same schedule for all: layer decay 0.75."""
    few = label_share(splits.train, asked.labels, run.seed)
    tuned = dataclasses.replace(
        run,
        objective=Classify(label_smoothing=0.1),
        model=dataclasses.replace(run.model, classes=0),  # pyrefly: ignore[bad-argument-type, unexpected-keyword]
        weights=str(folder / "last"),
        optim=Optim(lr=1e-3, weight_decay=0.05, warmup="10 %", layer_decay=0.75),
        batch_size=min(64, len(few)),
        length="200 steps",
        evaluate_every="200 steps",
        save_every="200 steps",
    )
    result = train(tuned, out=folder / "tuned", quiet=True, splits=Splits(few, splits.test, splits.how))
    return result.scores.top1  # pyrefly: ignore[missing-attribute]


def label_share(source: Source, share: float, seed: int) -> Source:
    """A share of every class, one image at least, drawn by `seed`."""
    random = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    for label in range(len(source.classes)):
        members = np.flatnonzero(source.labels == label)
        rows.append(random.permutation(members)[: max(1, round(share * len(members)))])
    return source.subset(np.sort(np.concatenate(rows)))


def means(cells: Iterable[Cell], key: Callable[[Cell], Any]) -> dict[Any, tuple[float, float, int]]:
    """Of the cells with each key: mean accuracy, standard deviation over seeds (0 for one), number of seeds."""
    groups: dict[Any, list[float]] = {}
    for cell in cells:
        groups.setdefault(key(cell), []).append(cell.accuracy)
    spread = {name: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for name, values in groups.items()}
    return {name: (float(np.mean(values)), spread[name], len(values)) for name, values in groups.items()}


def largest_budgets(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of the table: of each method and seed those with the most pre-training."""
    budget = [cell for cell in cells if cell.study == "budget"]
    most: dict[tuple[str, int], float] = {}
    for cell in budget:
        most[cell.method, cell.seed] = max(most.get((cell.method, cell.seed), 0.0), cell.flops)
    return [cell for cell in budget if cell.flops == most[cell.method, cell.seed]]
