"""How a run without labels is measured and how it ends: held-out loss, weights to go on from, a report with pictures."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from vitrail import hardware, machine
from vitrail.batches.draws import generator
from vitrail.batches.loader import Batch, eval_batches
from vitrail.images.sources import Source
from vitrail.objectives.reconstruct import Reconstruct, pictures
from vitrail.reports import figures
from vitrail.reports.journal import Journal, read
from vitrail.reports.page import Facts, FigureSection, Gallery, Picture, Section, write_page
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup, on_device
from vitrail.training.state import State

PANELS = (
    figures.Panel("Loss", {"loss": "training", "held_out_loss": "held out"}, log=True),
    figures.Panel("Accuracy", {"accuracy": "training", "held_out_accuracy": "held out"}, percent=True),
    figures.Panel("Learning rate", {"lr": "learning rate"}),
)
SHOWN = 12


@dataclass(frozen=True)
class Measured:
    """What a run without labels is known by: its objective's own numbers on held-out images, means over images."""

    images: int
    numbers: Mapping[str, float]

    @property
    def loss(self) -> float:
        return self.numbers["loss"]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        yield "images", self.images
        yield from self.numbers.items()


@torch.no_grad()
def measure(
    setup: Setup, learner: nn.Module, source: Source, watch: Callable[[Iterable[Batch]], Iterable[Batch]] = iter
) -> Measured:
    """The objective on all of `source`, as evaluation sees the images. The same masks every time, so that two
    measurements of one run differ by its weights alone.
    """
    run, share = setup.run, setup.world.slice(len(source))
    mine = source if setup.world.alone else source.subset(np.arange(len(source))[share])
    batches = eval_batches(mine, preprocess=run.preprocess, batch_size=setup.micro_batch, workers=run.hardware.workers)
    sums: dict[str, torch.Tensor] = {}
    learner.eval()
    for index, batch in enumerate(watch(batches)):
        random = generator(run.seed, -1, setup.world.rank, index)
        for _, part in batch.apart():
            with hardware.autocast(setup.device, setup.dtype):
                report = run.objective(learner, on_device(part, setup), random).report
            for name, value in report.items():
                sums[name] = sums.get(name, 0.0) + value.double() * len(part)
    totals = setup.world.sum(torch.stack(list(sums.values()))) / len(source)
    return Measured(len(source), dict(zip(sums, totals.tolist(), strict=True)))


def finish(setup: Setup, state: State, folder: RunFolder, journal: Journal, watch, save) -> Measured:
    """Writes last/ and report.html. There is no best/: what pre-training is good for, its own loss does not say."""
    learner = setup.whole(state.best_model)
    found = measure(setup, learner, setup.splits.test, watch)
    if setup.world.leads:
        save(folder.last, learner, found)
        write_page(folder.report, folder.path.name, list(sections(setup, learner, found, journal)))
    return found


def sections(setup: Setup, learner: nn.Module, found: Measured, journal: Journal) -> Iterator[Section]:
    tiles = [(f"Held-out {name}", f"{value:.4g}") for name, value in found.numbers.items()]
    yield Facts("Result", [*tiles, ("Held-out images", f"{found.images:,}")], style="tiles")
    if isinstance(setup.run.objective, Reconstruct):
        yield reconstructions(setup, learner)
    yield FigureSection("Training", figures.curves(read(journal.path), PANELS))
    yield Facts("Run", list(run_facts(setup)))


def reconstructions(setup: Setup, learner: nn.Module) -> Gallery:
    """Held-out images thrice: masked, painted, true."""
    run, objective = setup.run, setup.run.objective
    assert isinstance(objective, Reconstruct)
    source = setup.splits.test
    some = source.subset(np.linspace(0, len(source) - 1, min(SHOWN, len(source)), dtype=np.int64))
    batch = next(iter(eval_batches(some, preprocess=run.preprocess, batch_size=len(some), workers=0))).apart()[0][1]
    model = objective.kept(learner).eval()
    random = generator(run.seed, -2)
    seen, painted = pictures(model, batch.images, run.preprocess, objective.mask_ratio, random)
    shown = [
        Picture(_shown(images[at]), word, batch.keys[at] if word == "true" else "")
        for at in range(len(batch))
        for word, images in (("seen", seen), ("painted", painted), ("true", batch.images))
    ]
    note = f"{objective.mask_ratio:.0%} of the patches are hidden."
    if objective.target == "normalised":
        note += " The model predicts patches without their mean and contrast; those are taken from the true image."
    return Gallery("Reconstructions of held-out images", shown, note)


def _shown(image: torch.Tensor) -> np.ndarray:
    """C H W as H W C of one or three channels."""
    channels = 3 if len(image) >= 3 else 1
    return np.ascontiguousarray(image[:channels].permute(1, 2, 0).numpy())


def run_facts(setup: Setup) -> Iterator[tuple[str, str]]:
    """What a reader needs to judge the numbers or to run them again."""
    run, epochs = setup.run, setup.total_steps / setup.steps_per_epoch
    options = {field.name: getattr(run.objective, field.name) for field in dataclasses.fields(run.objective)}
    yield "data", f"{setup.splits.train.name}: {len(setup.splits.train):,} images; {setup.splits.how}"
    yield "objective", ", ".join(f"{name} {value}" for name, value in options.items())
    yield "recipe", f"{run.recipe or 'own'}, seed {run.seed}"
    yield "length", f"{setup.total_steps:,} steps of {run.batch_size} images, {epochs:.4g} epochs"
    yield "compute", f"{setup.flops_per_step * setup.total_steps / 1e18:.3g} exaFLOP"
    yield "optimiser", f"{run.optim.name}, learning rate {setup.schedule.peak:.3g}, decay {run.optim.weight_decay:g}"
    yield "precision", f"{run.hardware.precision}, compile {run.hardware.compile}"
    yield "machine", ", ".join(f"{name} {value}" for name, value in machine.describe(setup.device).items())
