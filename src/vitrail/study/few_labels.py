"""Few labels, many images: does pre-training on all of them beat spending the same compute on the labelled ones?

Both ways end with the same model, see the same labelled images and cost the same number of floating point operations.
"""

import dataclasses
import functools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError, suggest
from vitrail.images.sources import Splits
from vitrail.models import zoo
from vitrail.objectives.classify import Classify
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.recipes.pretraining import SMALL, small_run
from vitrail.recipes.request import Given
from vitrail.study.protocols import label_share
from vitrail.study.study import Study, open_labelled, train_to_end
from vitrail.training.run import Hardware, Optim, Run

SCRATCH = "from scratch"
PIXELS = (Reconstruct(decoder_width=64, decoder_depth=1, decoder_heads=4, target="pixels"), 1.5e-3)
"""MAE for a few epochs: pixels as they are teach shapes sooner than normalised ones."""


@dataclass(frozen=True, kw_only=True)
class FewLabels:
    """The two ways to compare, and how long each trains."""

    data: str
    labels: float = 0.01
    """Share of every class whose labels are known."""
    method: str = "mae"
    """Of pre-training, on all images: mae, masked_patches, simmim or contrast."""
    seeds: int = 3
    epochs: float = 5.0
    """Of pre-training."""
    tuning: int = 400
    """Steps of fine-tuning on the labelled images."""
    at_once: int = 1
    """Ways and seeds side by side, each in a process of its own; on a CPU with `hardware.threads=1`."""
    hardware: Hardware = dataclasses.field(default_factory=Hardware)

    def __post_init__(self) -> None:
        if self.method not in SMALL:
            hint = suggest(self.method, SMALL)
            raise ConfigError(f"there is no method {self.method!r}", allowed=", ".join(SMALL), next_step=hint)
        if not 0 < self.labels <= 1 or self.seeds < 1 or self.epochs <= 0 or self.tuning < 1:
            raise ConfigError(
                f"labels = {self.labels}, seeds = {self.seeds}, epochs = {self.epochs}, tuning = {self.tuning}",
                allowed="a share of the labels above 0, one seed or more, epochs and steps above 0",
            )


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to the same end, with one seed."""

    way: str
    seed: int
    labelled: int
    """Images whose labels it saw."""
    flops: float
    """All of it, pre-training included."""
    seconds: float
    """Wall time in this process."""
    accuracy: float


def few_labels(asked: FewLabels, folder: Path) -> Iterator[Arm]:
    """Each arm when it is known. Runs stay in `folder`; the same call goes on where it was stopped."""
    open_labelled(asked.data)
    study = Study(folder, "few-labels", asked, Arm)
    tasks = [(way, seed) for seed in range(asked.seeds) for way in (asked.method, SCRATCH)]
    for _, arms, _ in study.run(tasks, functools.partial(run_arm, asked, folder), asked.at_once):
        yield from arms


def run_arm(asked: FewLabels, folder: Path, task: tuple[str, int]) -> list[Arm]:
    """One way with one seed: its runs one after the other, each from the weights of the one before."""
    way, seed = task
    splits, given = open_labelled(asked.data)
    few = Splits(label_share(splits.train, asked.labels, seed), splits.test, splits.how)
    pre, tuned, scratch = plan_arms(asked, given, len(few.train), seed)
    parts = [(scratch, few)] if way == SCRATCH else [(pre, splits), (tuned, few)]
    place, since, spent, weights, accuracy = (
        folder / f"{way.replace(' ', '-')}-{seed}",
        time.perf_counter(),
        0.0,
        None,
        0.0,
    )
    for number, (run, images) in enumerate(parts, start=1):
        run = dataclasses.replace(run, weights=weights)
        result = train_to_end(run, place / str(number), images, quiet=asked.at_once > 1)
        spent += result.setup.flops_per_step * result.setup.total_steps
        weights, accuracy = str(result.folder), result.scores.headline.value
    seconds = time.perf_counter() - since
    return [Arm(way=way, seed=seed, labelled=len(few.train), flops=spent, seconds=seconds, accuracy=accuracy)]


def plan_arms(asked: FewLabels, given: Given, labelled: int, seed: int) -> tuple[Run, Run, Run]:
    """(pre-training on all images, fine-tuning on the labelled, training on those from scratch): the third costs what the
    first two do together. `weights` of the second are named when the first has a folder.
    """
    objective, lr = PIXELS if asked.method == "mae" else SMALL[asked.method]
    pre = small_run(given, objective, lr)
    pre = dataclasses.replace(
        pre,
        data=asked.data,
        seed=seed,
        hardware=asked.hardware,
        model=narrow(pre.model),
        batch_size=64,
        length=f"{max(1, round(asked.epochs * given.images / 64))} steps",
        evaluate_every="50 %",
        save_every="10 %",
    )
    tuned = plan_finetuning(pre, asked, labelled)
    spent = _flops(pre, given) + _flops(tuned, given)
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
    model = zoo.change(pre.model, drop_path=0.1)
    return dataclasses.replace(
        pre,
        model=model,
        objective=Classify(label_smoothing=0.1),
        optim=Optim(lr=2e-3, weight_decay=0.05, warmup="10 %", layer_decay=0.85),
        batch_size=min(64, labelled),
        length=f"{asked.tuning} steps",
        evaluate_every="50 %",
        save_every="25 %",
    )


def size_model(run: Run, given: Given) -> Any:
    """The model as the run will build it."""
    classes = given.classes if run.objective.reads_labels else 0
    return zoo.change(run.model, channels=run.preprocess.channels, classes=classes)


def _flops(run: Run, given: Given) -> float:
    return int(run.length.split()[0]) * run.batch_size * run.objective.flops(size_model(run, given))


def verdict(arms: Sequence[Arm]) -> str:
    """A sentence: how far apart the two ways are, and whether that is more than the spread over seeds."""
    by_way: dict[str, list[float]] = {}
    for one in arms:
        by_way.setdefault(one.way, []).append(100 * one.accuracy)
    (first, ours), (second, theirs) = sorted(by_way.items(), key=lambda pair: pair[0] == SCRATCH)
    margin = statistics.mean(ours) - statistics.mean(theirs)
    if len(ours) < 2 or len(theirs) < 2:
        return f"{first} − {second}: {margin:+.2f} points, of one seed"
    spread = max(statistics.stdev(ours), statistics.stdev(theirs))
    word = "more" if abs(margin) > spread else "no more"
    return f"{first} − {second}: {margin:+.2f} points, {word} than the larger spread over seeds, {spread:.2f}"
