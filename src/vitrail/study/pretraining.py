"""The arena: one backbone, every way of pre-training, the same FLOPs, the same readouts.

The cost of a method is counted, not assumed: MAE drops tokens and gets more steps, a momentum teacher gets fewer.
"""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vitrail import hardware, machine
from vitrail.errors import ConfigError, suggest
from vitrail.images.sources import Splits
from vitrail.models import cost, zoo
from vitrail.objectives.classify import Classify
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.recipes.mae import small_encoder
from vitrail.recipes.pretraining import SMALL, small_run
from vitrail.recipes.request import Given
from vitrail.study.protocols import PROTOCOLS, finetune, measure_frozen
from vitrail.study.study import Study, open_labelled, train_to_end
from vitrail.training.run import Hardware, Run
from vitrail.weights.bundle import load

SUPERVISED, NONE = "supervised", "none"
METHODS = (NONE, SUPERVISED, *SMALL)
"""No pre-training and all labels are the floor and the ceiling of the others."""


@dataclass(frozen=True, kw_only=True)
class Arena:
    """The methods to compare, and how long each trains."""

    data: str
    methods: tuple[str, ...] = METHODS
    seeds: int = 3
    epochs: float = 20.0
    """Of supervised training: its FLOPs are the budget of every method."""
    shares: tuple[float, ...] = (0.25, 1.0)
    """Of that budget, the points of the figure; the table shows the last."""
    labels: float = 0.05
    """Share of the training labels that fine-tuning may see."""
    ratios: tuple[float, ...] = (0.25, 0.5, 0.75, 0.9)
    """MAE's mask ratios of the second figure; none leaves it out."""
    at_once: int = 0
    """Runs side by side; 0 is one a core on a CPU, and one on a GPU."""
    hardware: Hardware = dataclasses.field(default_factory=lambda: Hardware(threads=1))

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


@dataclass(frozen=True)
class Job:
    """One pre-training and its readouts."""

    study: str
    """`budget`, or `ratio` for the curve over MAE's mask ratio."""
    method: str
    seed: int
    share: float
    """Share of the budget."""
    ratio: float | None = None

    def __str__(self) -> str:
        hidden = f" hiding {100 * self.ratio:g}%" if self.ratio is not None else ""
        part = f", {100 * self.share:g}% of the budget" if self.share not in (0, 1) else ""
        return f"{self.method}{hidden}, seed {self.seed}{part}"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of a job: the accuracy by one protocol."""

    study: str
    method: str
    seed: int
    flops: float
    """Operations of the whole pre-training."""
    protocol: str
    accuracy: float
    mask_ratio: float | None = None
    share: float = 1.0
    """Share of the budget."""


def jobs(asked: Arena) -> Iterator[Job]:
    """All of them; seed by seed, so that a report of half of them compares."""
    for seed in range(asked.seeds):
        for method in asked.methods:
            for share in asked.shares if method != NONE else (0.0,):
                yield Job("budget", method, seed, share)
        for ratio in asked.ratios:
            if not in_table(asked, ratio):
                yield Job("ratio", "mae", seed, 1.0, ratio)


def in_table(asked: Arena, ratio: float) -> bool:
    """Whether the table's MAE hides this share of the patches anyway, for the whole budget."""
    return "mae" in asked.methods and 1.0 in asked.shares and ratio == SMALL["mae"][0].mask_ratio


def run_arena(
    asked: Arena, folder: Path, watch: Callable[[int, int, str], object] = lambda done, total, text: None
) -> list[Cell]:
    """Every cell; the same call goes on where it was stopped.

    `watch` is told (jobs done, jobs in all, the result of the last). Runs lie in `folder`/runs until they are measured.
    """
    open_labelled(asked.data)
    study, every, cells = Study(folder, "pretraining", asked, Cell), list(jobs(asked)), []
    work = functools.partial(run_job, asked, folder / "runs")
    for done, (job, found, new) in enumerate(study.run(every, work, at_once(asked)), start=1):
        cells += found
        numbers = " · ".join(f"{cell.protocol} {cell.accuracy:.1%}" for cell in found[: len(PROTOCOLS)])
        watch(done, len(every), f"{job}: {numbers}" + ("" if new else " (from before)"))
    return cells


def at_once(asked: Arena) -> int:
    """Runs side by side: as many as asked for, else one a core where they use one thread each."""
    if asked.at_once:
        return asked.at_once
    return machine.cores() if hardware.device(asked.hardware.device).type == "cpu" else 1


def run_job(asked: Arena, runs: Path, job: Job) -> list[Cell]:
    """The cells of a job; with those of the mask ratio where its ratio is one of the curve's."""
    splits, given = open_labelled(asked.data)
    budget = asked.epochs * len(splits.train) * cost.train_flops(small_encoder(given, classes=given.classes))
    run, spent = plan_pretraining(asked, given, job.method, job.share * budget, job.seed, job.ratio)
    folder = runs / str(job).replace(" ", "-").replace(",", "").replace("%", "")
    facts = {"method": job.method, "seed": job.seed, "flops": spent, "share": job.share}
    found = list(measure_run(asked, run, splits, folder))
    places = [(job.study, job.ratio)]
    if job == Job("budget", "mae", job.seed, 1.0):
        places += [("ratio", ratio) for ratio in asked.ratios if in_table(asked, ratio)]
    return [
        Cell(study=study, mask_ratio=ratio, protocol=protocol, accuracy=accuracy, **facts)
        for study, ratio in places
        for protocol, accuracy in found
    ]


def plan_pretraining(
    asked: Arena, given: Given, method: str, budget: float, seed: int, ratio: float | None = None
) -> tuple[Run, float]:
    """(the run that spends `budget` operations, what it spends exactly). A mask ratio of its own keeps the number of
    images of the default one, as the paper's Figure 5, whatever that costs.
    """
    objective, lr = SMALL.get(method, SMALL["mae"])
    run = small_run(given, objective, lr)
    if method in (SUPERVISED, NONE):
        model = zoo.change(run.model, classes=given.classes)
        run = dataclasses.replace(run, objective=Classify(label_smoothing=0.1), model=model)
    sized = zoo.change(run.model, channels=run.preprocess.channels)
    steps = run.objective.steps_for(budget, sized, run.batch_size)
    if ratio is not None:
        assert isinstance(run.objective, Reconstruct)
        run = dataclasses.replace(run, objective=dataclasses.replace(run.objective, mask_ratio=ratio))
    spent = steps * run.batch_size * run.objective.flops(sized) if budget else 0.0
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


def measure_run(asked: Arena, run: Run, splits: Splits, folder: Path) -> Iterator[tuple[str, float]]:
    """(protocol, accuracy) of a model, pre-trained in `folder`."""
    train_to_end(run, folder, splits, quiet=True)
    yield from measure_frozen(load(folder / "last"), splits)
    yield "fine-tune", finetune(run, asked.labels, splits, folder)
    shutil.rmtree(folder)
