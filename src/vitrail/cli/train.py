"""`vitrail train`."""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.api.folds import Folds
from vitrail.api.request import name_leaves
from vitrail.api.train import Trained, check_seeds, go_on, refuse_choices, start
from vitrail.cli.arguments import Switch, pairs, parse, say
from vitrail.cli.options import Show
from vitrail.cli.run_options import Asked, finished, settings, spell_out, understand
from vitrail.processes.world import World
from vitrail.reports.tables import show
from vitrail.scores.outcome import Headline
from vitrail.training.loop import Result
from vitrail.training.plan import plan_of
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup


@dataclass(frozen=True)
class Train(Asked, Show):
    """Trains a Vision Transformer on labelled images. DATA is a folder with a folder of images for each class, a CSV, IDX files,
    shards, Parquet, or a named set.

    Without --recipe one is chosen by the number and shape of the images and by whether weights were given; it says
    which and why. Every option changes one of its values.

    examples:
      vitrail train digits                                   handwritten digits, in a minute
      vitrail train ./photos                                 a folder with a folder per class
      vitrail train ./photos --weights vit-b16.npz           fine-tune published weights
      vitrail train ./photos --model vit-ti/16 --epochs 30 --optim.lr 5e-4 --augment.flip
      vitrail train digits --seeds 3                         mean and spread of three runs
      vitrail train ./photos --folds 5                       every image scored once, for few images
      vitrail train ./photos --classes leaf                  the folder that an image lies in is its class
      vitrail train ./more --like runs/photos-1              the settings of another run
      vitrail train --resume runs/photos-1                   go on where it stopped, to the same bits
    """

    out: Path | None = None
    """The run folder; runs/NAME-1, -2, … where none is named."""
    resume: Path | None = None
    """Resume this run with its own settings. Options that do not change the result may be added."""
    override: Switch = False
    """With --resume: also allow settings that change the result."""
    accept_data_change: Switch = False
    """With --resume: go on although the images are not those the run was started on."""
    allow_leaks: Switch = False
    """Train although some held-out images are also trained on, byte for byte: the score will flatter."""
    seeds: int = 1
    """Train this many times, with seeds from --seed on; prints mean and standard deviation."""
    folds: int = 0
    """Train so many times, each time with another part held out, and score all images: k-fold cross-validation."""
    tensorboard: Switch = False
    """Also log for TensorBoard, into the run folder."""
    quiet: Switch = False
    """No progress and no plan."""


def main(words: Sequence[str]) -> int:
    if any(word.partition("=")[0] == "--resume" for word in words):
        return resumed(words)
    asked, chosen = understand(Train, words, command="train")
    check_seeds(asked.seeds, asked.folds)
    if not asked.quiet and World.from_environment().leads:
        say(chosen.why)
    how = {"quiet": asked.quiet, "tensorboard": asked.tensorboard, "announce": None if asked.quiet else head}
    return report(start(chosen, asked.out, asked.seeds, asked.folds, allow_leaks=asked.allow_leaks, **how), asked)


def resumed(words: Sequence[str]) -> int:
    """Goes on with a run folder's own settings; words that change them are read on top of those."""
    words = spell_out(words)
    first = parse(Train, words, command="train", default=Train(run=settings(Run())), check=False)
    folder = Path(str(first.resume))
    stored = RunFolder.read(folder)
    asked = parse(Train, words, command="train", default=Train(run=settings(stored)))
    run = replace(finished(asked), data=str(name_leaves(asked.data or stored.data, asked.classes)))
    others = (run.recipe != stored.recipe, run.weights != stored.weights, asked.seeds != 1)
    refuse_choices(asked.model, asked.like, asked.out, asked.folds, *others)
    changes = {"override": asked.override, "accept_data_change": asked.accept_data_change}
    return report(go_on(folder, run, **changes, quiet=asked.quiet, tensorboard=asked.tensorboard), asked)


def head(setup: Setup) -> None:
    """The plan, shown before the first step: what the run will cost."""
    plan = plan_of(setup)
    if setup.world.leads:
        for what, value in plan.rows():
            say(f"  {what:<9} {value}")


def report(found: Trained, asked: Show) -> int:
    """Print the results on stdout; of several processes one speaks."""
    if not found.results[0].setup.world.leads:
        return 0
    if asked.format != "json":
        show(pairs(list(rows_of_folds(found.folds) if found.folds else rows_of(found))), asked.format)
        return 0
    each: Any = [_facts(result) for result in found.results]
    if found.folds:
        known = {"folder": found.folder.as_posix(), "trained_on": found.folds.trained_on}
        whole = {**known, **found.scores.numbers, "baselines": found.folds.baselines}
        each = {**whole, "folds": each}
    elif len(each) == 1:
        each = each[0]
    print(json.dumps(each, indent=1))
    return 0


def rows_of_folds(found: Folds) -> Iterator[tuple[str, str]]:
    """The scores of all images, and of each fold."""
    headline = found.scores.headline
    yield headline.name, f"{found.scores}{'' if found.caveat else ', each scored by a model not trained on it'}"
    if found.caveat:
        yield "warning", found.caveat
    yield f"{len(found.results)} folds", ", ".join(str(result.scores.headline) for result in found.results)
    yield from _beside(headline, found.baselines)
    yield "report", (found.folder / "report.html").as_posix()
    yield "run folders", (found.folder / "fold-1").as_posix() + ", …"
    first = shlex.quote((found.folder / "fold-1").as_posix())
    yield "next", f"vitrail train --like {first} --holdout 0: one model of all images"


def rows_of(found: Trained) -> Iterator[tuple[str, str]]:
    """The scores of a run; or of each seed, and their spread, before the rest of the first."""
    if len(found.results) == 1:
        yield _measured(found.results[0])
    else:
        yield from ((f"seed {result.setup.run.seed}", str(result.scores.headline)) for result in found.results)
        yield _spread(found)
    yield from _rest(found.results[0])


def _rest(result: Result) -> Iterator[tuple[str, str]]:
    if result.setup.splits.caveat:
        yield "warning", result.setup.splits.caveat
    if result.best:
        yield "best", str(result.best)
    yield from _beside(result.scores.headline, result.baselines)
    for name, about in (("predictions.png", "predictions"), ("report.html", "report")):
        if (result.folder / name).exists():
            yield about, (result.folder / name).as_posix()
    yield "run folder", result.folder.as_posix()
    labelled = result.setup.run.objective.reads_labels
    folder = shlex.quote(result.folder.as_posix())
    command = f"predict {folder} FILES…" if labelled else f"train DATA --weights {folder}"
    yield "next", f"vitrail {command}"


def _measured(result: Result) -> tuple[str, str]:
    """The scores: on which images, and of which weights."""
    scores = result.scores
    if not scores.images:
        return "score", str(scores)
    chosen = result.best and result.best.validation
    return f"held-out {scores.headline.name}", f"{scores}, {'best' if chosen else 'last'} weights"


def _beside(headline: Headline, baselines: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The cheap answers, and a sentence where one of them is better than the model."""
    if not baselines:
        return
    yield "cheap answers", ", ".join(f"{name} {headline.write(value)}" for name, value in baselines.items())
    if warning := headline.warn(baselines):
        yield "warning", warning


def _spread(found: Trained) -> tuple[str, str]:
    name, headline = f"held out, mean of {len(found.results)} seeds, one split", found.scores.headline
    mean, spread = found.spread
    if headline.percent:
        return name, f"{100 * mean:.2f} ± {100 * spread:.2f} %"
    return name, f"{headline.name} {mean:.4g} ± {spread:.2g}"


def _facts(result: Result) -> dict[str, Any]:
    cheap = {"baselines": dict(result.baselines)} if result.baselines else {}
    known = {"seed": result.setup.run.seed, "trained_on": result.setup.splits.trained_on}
    return {"folder": result.folder.as_posix(), **known, **result.scores.numbers, **cheap}
