"""`vitrail train`."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vitrail.api.train import check_seeds, train_seeds
from vitrail.cli.arguments import Switch, pairs, parse, say
from vitrail.cli.run_options import Asked, finished, settings, understand
from vitrail.errors import ConfigError
from vitrail.reports.tables import show
from vitrail.training.loop import Result, train
from vitrail.training.plan import plan_of
from vitrail.training.pretraining import Measured
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup


@dataclass(frozen=True)
class Train(Asked):
    """Trains a Vision Transformer on labelled images.

    Without --recipe one is chosen by the number and shape of the images and by whether weights were given; it says
    which and why. Everything below the first block is the recipe's, and one word overrides one value.

    examples:
      vitrail train digits                                   handwritten digits, in a minute
      vitrail train ./photos                                 a folder with a folder per class
      vitrail train ./photos --weights vit-b16.npz           fine-tune published weights
      vitrail train ./photos --model vit-ti/16 --epochs 30 --optim.lr 5e-4 --augment.flip
      vitrail train digits --seeds 3                         mean and spread of three runs
      vitrail train --resume runs/photos-1                   go on where it stopped, to the same bits
    """

    out: Path | None = None
    """The run folder; runs/NAME-1, -2, … where none is named."""
    resume: Path | None = None
    """A run folder to go on with, by its own settings; words that change nothing that is learnt may be added."""
    override: Switch = False
    """With --resume: also take over settings that change what is learnt."""
    accept_data_change: Switch = False
    """With --resume: go on although the images are not those the run was started on."""
    allow_leaks: Switch = False
    """Train although held-out images are learnt from too, byte for byte: the score will flatter."""
    seeds: int = 1
    """Train this many times, with seeds from --seed on; prints mean and standard deviation."""
    tensorboard: Switch = False
    """Also log for TensorBoard, into the run folder."""
    json: Switch = False
    """The result as JSON on stdout."""
    quiet: Switch = False
    """No progress and no plan."""


def main(words: Sequence[str]) -> int:
    if any(word.partition("=")[0] == "--resume" for word in words):
        return resumed(words)
    asked, chosen = understand(Train, words, command="train")
    check_seeds(asked.seeds)
    if not asked.quiet:
        say(chosen.why)
    results = train_seeds(
        chosen.run,
        chosen.splits,
        asked.seeds,
        asked.out,
        announce=None if asked.quiet else head,
        quiet=asked.quiet,
        tensorboard=asked.tensorboard,
        allow_leaks=asked.allow_leaks,
    )
    return report(results, asked)


def resumed(words: Sequence[str]) -> int:
    """Goes on with a run folder's own settings; words that change them are read on top of those."""
    first = parse(Train, words, command="train", default=Train(run=settings(Run())), check=False)
    stored = RunFolder.stored(first.resume)
    asked = parse(Train, words, command="train", default=Train(run=settings(stored)))
    if asked.data or asked.model or asked.seeds != 1 or asked.out:
        raise ConfigError(
            "a resumed run keeps its data, model, seeds and folder",
            next_step="leave those words out, or start a new run without --resume",
        )
    result = train(
        replace(finished(asked), data=stored.data),
        out=asked.resume,
        resume=True,
        override=asked.override,
        accept_data_change=asked.accept_data_change,
        quiet=asked.quiet,
        tensorboard=asked.tensorboard,
    )
    return report([result], asked)


def head(setup: Setup) -> None:
    """The plan, shown before the first step: what the run will cost."""
    plan = plan_of(setup)
    if setup.world.leads:
        for what, value in plan.rows():
            say(f"  {what:<9} {value}")


def report(results: Sequence[Result], asked: Train) -> int:
    """What came out, on stdout; of several processes one speaks."""
    if not results[0].setup.world.leads:
        return 0
    if asked.json:
        found: Any = [_facts(result) for result in results]
        print(json.dumps(found if len(found) > 1 else found[0], indent=1))
    elif len(results) == 1:
        show(pairs(list(_lines(results[0]))), "table")
    else:
        each = [(f"seed {result.setup.run.seed}", _figure(result)) for result in results]
        show(pairs([*each, _spread(results), *list(_lines(results[0]))[1:]]), "table")
    return 0


def _lines(result: Result):
    if isinstance(result.scores, Measured):
        for name, value in result.scores.numbers.items():
            yield f"held-out {name}", f"{value:.4g}, over {result.scores.images:,} images"
        yield "report", (result.folder / "report.html").as_posix()
        yield "run folder", result.folder.as_posix()
        yield "next", f"vitrail train DATA --weights {result.folder}"
        return
    low, high = result.scores.interval
    yield (
        "held-out accuracy",
        f"{result.scores.top1:.2%} of {result.scores.images:,} images (95 % interval {low:.1%} to {high:.1%})",
    )
    yield from _beside(result.scores.top1, result.baselines)
    for name, about in (("predictions.png", "predictions"), ("report.html", "report")):
        if (result.folder / name).exists():
            yield about, (result.folder / name).as_posix()
    yield "run folder", result.folder.as_posix()
    yield "next", f"vitrail predict {result.folder} FILES…"


def _beside(top1: float, baselines: Mapping[str, float]):
    """The cheap answers, and a sentence where one of them is better than the model."""
    if not baselines:
        return
    yield "cheap answers", ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in baselines.items())
    best = max(baselines, key=lambda name: baselines[name])
    if top1 < baselines[best]:
        yield "warning", f"the model is worse than {best} ({top1:.1%} against {baselines[best]:.1%})"


def _spread(results: Sequence[Result]) -> tuple[str, str]:
    name = f"held out, mean of {len(results)} seeds"
    losses = [result.scores.loss for result in results if isinstance(result.scores, Measured)]
    if losses:
        return name, f"loss {statistics.mean(losses):.4g} ± {statistics.stdev(losses):.2g}"
    values = [100 * result.scores.top1 for result in results if not isinstance(result.scores, Measured)]
    return name, f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f} %"


def _figure(result: Result) -> str:
    """The one number a run is known by."""
    if isinstance(result.scores, Measured):
        return f"loss {result.scores.loss:.4g}"
    return f"{result.scores.top1:.2%}"


def _json(result: Result) -> dict[str, Any]:
    return {"baselines": dict(result.baselines)} if result.baselines else {}


def _facts(result: Result) -> dict[str, Any]:
    return {"folder": result.folder.as_posix(), "seed": result.setup.run.seed, **dict(result.scores), **_json(result)}
