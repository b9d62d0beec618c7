"""How a run is judged, and how it ends: answers to held-out images, the last weights, the report."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitrail import machine
from vitrail.batches.draws import generator, seed_of
from vitrail.batches.loader import Batch, Budget, eval_batches
from vitrail.errors import DecodeError
from vitrail.evaluation.features import collect
from vitrail.images.samples import Source
from vitrail.models import cost
from vitrail.objectives.objective import Answers
from vitrail.prediction.forward import answering
from vitrail.reports import figures
from vitrail.reports.journal import Journal, read
from vitrail.reports.page import Facts, FigureSection, Section, warning, write_page
from vitrail.scores.calibration import Calibration
from vitrail.scores.finite import check_finite
from vitrail.scores.measured import Measured
from vitrail.scores.outcome import Outcome
from vitrail.storage import write_whole
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup, on_device
from vitrail.training.state import State
from vitrail.weights.bundle import Record, load, save_bundle
from vitrail.weights.trained_on import carry_trained_keys

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]
SHOWN = 12
CURVES = "Training curves are means of an epoch, the faint lines single steps. Training accuracy is of augmented and mixed images."


@dataclass(frozen=True)
class Judged:
    """An outcome, the images that it is of, and the calibration that they choose."""

    outcome: Outcome
    calibration: Calibration
    source: Source
    unreadable: tuple[DecodeError, ...] = ()
    """Images that this process could not read: they are left out of the outcome."""


def judge(
    setup: Setup,
    model: nn.Module,
    source: Source,
    watch: Watch = iter,
    calibration: Calibration = Calibration(),  # noqa: B008
) -> Judged:
    """Judges a model on all of `source`, each image once; every rank answers a share and judges the whole.

    `calibration` was chosen on other images. Without images there is no score.
    """
    if not len(source):
        return Judged(Measured(0, {}), Calibration(), source)
    objective = setup.run.objective
    answers, source, lost = collect_answers(setup, model, source, watch)
    outcome = objective.judge(answers, source, setup.classes, calibration)
    return Judged(outcome, objective.calibrate(answers, source, setup.classes), source, lost)


def collect_answers(
    setup: Setup, model: nn.Module, source: Source, watch: Watch = iter
) -> tuple[Answers, Source, tuple[DecodeError, ...]]:
    """All ranks' answers to the images of `source`, in its order; those images; and why this rank left some out.

    Random numbers are the same at every evaluation. Raises NonFiniteError that names the first image whose answer is not
    finite, and DataError for too many unreadable images.
    """
    run, world = setup.run, setup.world
    mine = source if world.alone else source.subset(np.arange(len(source))[world.slice(len(source))])
    batches = eval_batches(
        mine, preprocess=run.preprocess, batch_size=setup.micro_batch, workers=run.hardware.workers, strict=False
    )
    budget, lost = Budget(len(source), "held-out", run.skip_unreadable), list[DecodeError]()
    random = torch.Generator()

    def noted() -> Iterator[Batch]:
        for index, batch in enumerate(watch(batches)):
            budget.spend(batch.dropped)
            lost.extend(batch.dropped)
            random.manual_seed(seed_of(run.seed, -1, world.rank, index))
            yield batch

    def answer(part: Batch) -> dict[str, Tensor]:
        with answering(model, setup.device, setup.dtype):
            return run.objective.answer(model, on_device(part, setup), random)

    joined = collect(noted(), answer)
    left_out = {error.key for error in lost}
    read = torch.tensor([key not in left_out for key in mine.keys])
    answered = mine.subset(np.flatnonzero(read.numpy()))
    for rows in joined.values():
        check_finite(rows, answered.keys)
    scored = source.subset(np.flatnonzero(world.gather_rows(read).numpy()))
    return {name: world.gather_rows(rows) for name, rows in joined.items()}, scored, tuple(lost)


def finish(
    setup: Setup, state: State, folder: RunFolder, journal: Journal, watch: Watch = iter, *, report: bool = True
) -> Outcome:
    """Writes last/, report.html and predictions.png; gives the outcome that the run is known by.

    If the data have a validation split, it chose the best weights, and the test split, new to them, judges them. If not, the
    held-out images judge the last weights: a best chosen by the same images would look better than it is.
    """
    objective, test = setup.run.objective, setup.splits.test
    learner = setup.whole(state.best_model)
    last = objective.model_of(learner)
    if setup.splits.val is None or state.best_step < 0:
        judged = judge(setup, objective.model_to_judge(learner), test, watch)
        written = [(folder.last, last, judged.outcome, judged.calibration)]
    else:
        best: Any = load(folder.best).to(setup.device)
        chosen = Calibration(best.record.temperature, best.record.threshold, best.record.least)
        judged = judge(setup, best, test, watch, chosen)
        written = [(folder.best, best, judged.outcome, chosen), (folder.last, last, None, chosen)]
    if setup.world.leads:
        for place, model, scores, calibration in written:
            save_bundle(place, model, make_record(model, setup.run, setup.splits.train, scores, calibration))
            carry_trained_keys(folder.path, place)
        if report:
            write_report(setup, learner, judged, folder, journal)
    return judged.outcome


def make_record(
    model: Any,
    run: Run,
    train: Source,
    outcome: Outcome | None = None,
    calibration: Calibration = Calibration(),  # noqa: B008
    source: str = "",
) -> Record:
    """The record of the weights: config, preprocessing, class names, scores, calibration."""
    return Record(
        config=model.config,
        preprocess=run.preprocess,
        classes=train.classes if run.objective.reads_labels else (),
        source=source or f"trained by vitrail on {train.name} with the recipe {run.recipe or 'of its own'}",
        scores=dict(outcome.numbers) if outcome else {},
        temperature=calibration.temperature,
        threshold=(calibration.threshold or 0.5) if train.multi_label else None,
        numeric=train.numeric and run.objective.reads_labels,
        least=calibration.least,
    )


def write_report(setup: Setup, learner: nn.Module, judged: Judged, folder: RunFolder, journal: Journal) -> None:
    """report.html: how good the model is, where it is wrong, how training went, what ran. And predictions.png."""
    outcome, image_of = judged.outcome, judged.source.picture
    baselines = [(name, outcome.headline.write(value)) for name, value in folder.baselines.items()]
    worse = outcome.headline.warn(folder.baselines)
    baselines += [("warning", worse)] if worse else []
    rows = read(journal.path)
    sections = [
        *warning(setup.splits.caveat),
        *outcome.sections(image_of),
        *([Facts("Cheap answers on the same images", baselines)] if baselines else []),
        *show_images(setup, learner, judged.source),
        FigureSection("Training", figures.curves(rows, outcome.panels), note=CURVES),
        Facts("Run", [*weights_facts(setup, rows, outcome), *run_facts(setup)]),
    ]
    write_page(folder.report, folder.path.name, sections)
    if sheet := outcome.draw_sheet(image_of):
        write_whole(folder.path / "predictions.png", sheet)


def show_images(setup: Setup, learner: nn.Module, source: Source) -> Sequence[Section]:
    """The objective's own pictures of held-out images, spread over the set."""
    run = setup.run
    if not len(source):
        return ()
    some = source.subset(np.linspace(0, len(source) - 1, min(SHOWN, len(source)), dtype=np.int64))
    batch = next(iter(eval_batches(some, preprocess=run.preprocess, batch_size=len(some), workers=0)))
    return run.objective.show(learner, batch.apart()[0][1], run.preprocess, generator(run.seed, -2))


def weights_facts(setup: Setup, rows: Sequence[Mapping[str, Any]], outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Which weights the numbers are of, and the best that the curve has seen."""
    if setup.splits.val is not None:
        yield "weights measured", "best/, chosen by the validation images; the numbers above are of the test images"
        return
    yield "weights measured", "last/, after the last step"
    key = f"held_out_{outcome.headline_key}"
    scored = [(row[key], setup.epochs(row["step"])) for row in rows if row.get(key) is not None]
    if scored and outcome.chooses_best:
        best, epoch = (max if outcome.headline.higher_is_better else min)(scored, key=lambda row: row[0])  # the first
        yield "best/", f"{outcome.headline.write(best)} at epoch {epoch:.4g}, chosen by these images, so it flatters"


def describe_options(options: Any) -> str:
    """The values of a config that are not off."""
    named = ((field.name.replace("_", " "), getattr(options, field.name)) for field in dataclasses.fields(options))
    shown = [(name, value) for name, value in named if value not in (0, None, False, (), "none", "")]
    return ", ".join(name if value is True else f"{name} {_short(value)}" for name, value in shown) or "none"


def _short(value: Any) -> str:
    """A value with four digits at most: (0.75, 1.3333333333333333) as 0.75 to 1.333."""
    if isinstance(value, tuple):
        return " to ".join(map(_short, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def run_facts(setup: Setup) -> Iterator[tuple[str, str]]:
    """The settings that a reader needs to judge the numbers or to run them again."""
    run, epochs = setup.run, setup.epochs(setup.total_steps)
    exaflops = setup.flops_per_step * setup.total_steps / 1e18
    size = f"{cost.count_parameters(setup.model):,} parameters, {setup.macs / 1e9:.3g} GMAC an image"
    rate = f"learning rate {setup.schedule.peak:.3g}, {run.optim.schedule}, decay {run.optim.weight_decay:g}"
    yield "data", f"{setup.splits.train.name}: {len(setup.splits.train):,} training images; {setup.splits.how}"
    if run.objective.reads_labels and setup.splits.train.labels.ndim == 1 and len(setup.splits.train.classes):
        counts = setup.splits.train.counts
        yield "classes", f"{len(counts):,}, of {counts.min():,} to {counts.max():,} training images"
    yield "augmentation", describe_options(run.augment)
    yield "mixing", describe_options(run.mixing)
    yield "model", f"{run.model.family}, {size}"
    yield "objective", describe_options(run.objective)
    yield "recipe", f"{run.recipe or 'own'}, seed {run.seed}"
    yield "length", f"{setup.total_steps:,} steps of {run.batch_size} images, {epochs:.4g} epochs"
    yield "compute", f"{exaflops:.3g} exaFLOP"
    yield "optimiser", f"{run.optim.name}, {rate}"
    yield "precision", f"{run.hardware.precision}, compile {run.hardware.compile}"
    yield "machine", ", ".join(f"{name} {value}" for name, value in machine.describe(setup.device).items())
