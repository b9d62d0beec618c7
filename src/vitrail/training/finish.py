"""The end of a run: the last weights as a bundle, the held-out scores, the report and the sheet of predictions."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vitrail import machine
from vitrail.batches.loader import Batch, eval_batches
from vitrail.evaluation.classification import Scores
from vitrail.evaluation.classification import scores as scores_of
from vitrail.evaluation.evaluate import in_classes
from vitrail.evaluation.features import extract
from vitrail.evaluation.report import classification_sections
from vitrail.images.sources import Source
from vitrail.models import cost
from vitrail.reports import figures
from vitrail.reports.journal import Journal, read
from vitrail.reports.page import Facts, FigureSection, write_page
from vitrail.training import pretraining
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup
from vitrail.training.state import State
from vitrail.weights.bundle import Record, load, save_bundle
from vitrail.weights.trained_on import carry_trained_keys

Watch = Callable[[Iterable[Batch]], Iterable[Batch]]


def finish(
    setup: Setup, state: State, folder: RunFolder, journal: Journal, watch: Watch = iter
) -> Scores | pretraining.Measured:
    """Writes last/, report.html and predictions.png; gives the scores the run is known by.

    Where the data has a validation split of its own, that chose the best weights and the test split, never looked at before,
    scores them. Without one the held-out images score the last weights: choosing the best by them would flatter it.
    """
    if not setup.run.objective.labelled:

        def save(path: Path, learner: nn.Module, found: pretraining.Measured) -> None:
            save_weights(path, learner, setup, found)

        return pretraining.finish(setup, state, folder, journal, watch, save)
    model = setup.whole(state.best_model)
    if setup.splits.val is not None:
        best = load(folder.best).to(setup.device)
        scores = classified(setup, best, setup.splits.test, watch)
    else:
        best, scores = None, classified(setup, setup.run.objective.kept(model), setup.splits.test, watch)
    if not setup.world.leads:
        return scores
    if best is not None:
        save_bundle(folder.best, best, record_of(best, setup, scores))
    save_weights(folder.last, model, setup, scores if best is None else None)
    pictures = setup.splits.test.picture
    write_report(setup, scores, pictures, folder, journal)
    (folder.path / "predictions.png").write_bytes(sheet(scores, pictures))
    return scores


def held_out(setup: Setup, learner: nn.Module, source: Source, watch: Watch = iter) -> Scores | pretraining.Measured:
    """The scores on all of `source`: each rank answers its share, and all score the whole, each image once."""
    if not setup.run.objective.labelled:
        return pretraining.measure(setup, learner, source, watch)
    return classified(setup, setup.run.objective.kept(learner), source, watch)


def classified(setup: Setup, model: nn.Module, source: Source, watch: Watch = iter) -> Scores:
    """The scores of a classifier."""
    settings = setup.run.hardware
    share = source if setup.world.alone else source.subset(np.arange(len(source))[setup.world.slice(len(source))])
    batches = eval_batches(
        share, preprocess=setup.run.preprocess, batch_size=2 * setup.micro_batch, workers=settings.workers
    )
    found = extract(model, watch(batches), preprocess=setup.run.preprocess, precision=settings.precision)
    assert found.logits is not None
    logits, targets = (setup.world.gather_rows(rows) for rows in (found.logits, found.targets))
    return scores_of(logits, in_classes(targets, source.classes, setup.classes), setup.classes)


def summary(scores: Scores | pretraining.Measured) -> Mapping[str, float]:
    """The single numbers of an evaluation, as they stand in the log."""
    return {f"held_out_{name}": value for name, value in scores if name != "images"}


def save_weights(folder: Path, learner: nn.Module, setup: Setup, scores: Scores | pretraining.Measured | None) -> None:
    """A bundle that `vitrail.load` reads: weights, config, preprocessing, class names and what they scored."""
    model = setup.run.objective.kept(learner)
    save_bundle(folder, model, record_of(model, setup, scores))
    carry_trained_keys(folder.parent, folder)


def record_of(model: Any, setup: Setup, scores: Scores | pretraining.Measured | None) -> Record:
    run = setup.run
    return Record(
        config=model.config,
        preprocess=run.preprocess,
        classes=setup.classes if run.objective.labelled else (),
        source=f"trained by vitrail on {setup.splits.train.name} with the recipe {run.recipe or 'of its own'}",
        scores=dict(scores or ()),
    )


def write_report(
    setup: Setup, scores: Scores, pictures: Callable[[int], np.ndarray], folder: RunFolder, journal: Journal
) -> None:
    """report.html: what ran, how it went, how good it is, where it is wrong."""
    baselines = [(name, f"{accuracy:.2%}") for name, accuracy in folder.baselines.items()]
    sections = [
        *classification_sections(scores, pictures, setup.classes),
        *([Facts("Cheap answers on the same images", baselines)] if baselines else []),
        FigureSection("Training", figures.curves(read(journal.path))),
        Facts("Run", list(run_facts(setup))),
    ]
    write_page(folder.report, folder.path.name, sections)


def run_facts(setup: Setup) -> Iterator[tuple[str, str]]:
    """What a reader needs to judge the numbers or to run them again."""
    run, computer = setup.run, machine.describe(setup.device)
    yield "data", f"{setup.splits.train.name}: {len(setup.splits.train):,} images to learn from; {setup.splits.how}"
    yield (
        "model",
        f"{run.model.family}, {cost.count_parameters(setup.model):,} parameters, {setup.macs / 1e9:.3g} GMAC an image",
    )
    yield "recipe", f"{run.recipe or 'own'}, seed {run.seed}"
    yield (
        "length",
        f"{setup.total_steps:,} steps of {run.batch_size} images, {setup.total_steps / setup.steps_per_epoch:.4g} epochs",
    )
    yield "compute", f"{setup.flops_per_step * setup.total_steps / 1e18:.3g} exaFLOP"
    yield (
        "optimiser",
        f"{run.optim.name}, learning rate {setup.schedule.peak:.3g}, {run.optim.schedule}, decay {run.optim.weight_decay:g}",
    )
    yield "precision", f"{run.hardware.precision}, compile {run.hardware.compile}"
    yield "machine", ", ".join(f"{name} {value}" for name, value in computer.items())


def sheet(scores: Scores, pictures: Callable[[int], np.ndarray], most: int = 24) -> bytes:
    """predictions.png: the surest mistakes first, then right answers spread over the set."""
    wrong = [int(index) for index in scores.worst[: most // 2]]
    right = np.flatnonzero(scores.predicted == scores.targets)
    spread = right[np.linspace(0, len(right) - 1, min(len(right), most - len(wrong)), dtype=int)] if len(right) else []
    shown = [*wrong, *(int(index) for index in spread)]
    answers = [scores.classes[scores.predicted[index]] for index in shown]
    truths = [scores.classes[scores.targets[index]] for index in shown]
    titles = [
        answer if answer == truth else f"{answer}\nnot {truth}" for answer, truth in zip(answers, truths, strict=True)
    ]
    low, high = scores.interval
    title = f"{scores.top1:.2%} right of {scores.images:,} held-out images (95 % interval {low:.1%} to {high:.1%})"
    return figures.prediction_sheet([pictures(i) for i in shown], titles, [i not in wrong for i in shown], title=title)
