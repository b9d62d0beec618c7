"""`vitrail suite`."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import tyro

from vitrail.cli.arguments import parse, say
from vitrail.cli.options import Compute, Show
from vitrail.errors import ConfigError, DataError
from vitrail.reports.tables import show

if TYPE_CHECKING:
    from torch import nn

    from vitrail.study.suite import Opened
    from vitrail.study.suite_file import ModelEntry


@dataclass(frozen=True, kw_only=True)
class SuiteWords(Compute, Show):
    """Measures models on a list of data sets, all the same way: your own transfer suite, or VTAB-1k.

    The file lists models, data sets and protocols. Every result is written down as soon as it is known: run it again to
    go on, or after adding a model or a task. Missing tasks are listed
    with how to get them. Means are over the tasks that ran. The exit code is then 65.
    Paths are looked for beside the file first, then from the current directory.

    my_suite.toml:
      protocols = ["fewshot", "knn", "linear"]   # also nearest-mean, linear-4, logistic, and finetune
      seeds = 3
      [[models]]
      path = "runs/photos-1"
      [[models]]
      path = "pixels"                            # what any model should beat
      [[tasks]]
      data = "./leaves"
      group = "natural"
      [vtab]                                     # the 19 tasks, each a folder below
      root = "data/vtab-1k"
      [finetune]                                 # as the paper does for VTAB, where nothing is said
      recipe = "finetune_small"                  # a CPU's: a logistic head first, 10 epochs
      lr = [0.003, 0.01]                         # one is chosen on held-out training images

    examples:
      vitrail suite my_suite.toml
      vitrail suite my_suite.toml --out results/suite --json
    """

    file: tyro.conf.Positional[Path]
    out: Path | None = None
    """Results, features and the page; runs/ and the file's name without it."""


def main(words: Sequence[str]) -> int:
    asked = parse(SuiteWords, words, command="suite")

    from vitrail.evaluation.embedding import Extraction
    from vitrail.hardware import Hardware
    from vitrail.reports.page import write_page
    from vitrail.study.suite import run_suite
    from vitrail.study.suite_file import read_suite
    from vitrail.study.suite_report import cost_table, missing_table, sections, table
    from vitrail.study.suite_tuning import Tuner

    suite = read_suite(asked.file)
    folder = asked.out or Path("runs") / asked.file.stem
    how = Extraction(batch_size=asked.batch, device=asked.device, precision=asked.precision, workers=asked.workers)
    hardware = Hardware(device=asked.device, precision=asked.precision, workers=asked.workers)
    tune = Tuner(settings=suite.finetune, seeds=suite.seeds, hardware=hardware, say=say)
    results, missing = run_suite(suite, folder, load=open_entry, say=say, how=how, tune=tune, unseen=unseen)
    if not results and not missing:
        raise ConfigError("none of the protocols applies to any of the models", next_step="add a protocol or a model")
    if not results:
        raise DataError(
            f"none of the {len(missing)} tasks could be opened: {missing[0].why}", next_step="mend the suite's paths"
        )
    page = write_page(folder / "report.html", suite.name, sections(suite, results, missing))  # before a pipe may break
    show(table(suite, results), asked.format)
    if asked.format == "table":
        show(cost_table(results), "table")
        if missing:
            show(missing_table(missing), "table")
    say(f"page: {page}")
    return DataError.exit_code if missing else 0


@functools.lru_cache(maxsize=2)
def load_once(path: str) -> "nn.Module":
    """Tasks come one after the other, each with every model."""
    from vitrail.weights.bundle import load

    return load(path)


def open_entry(entry: "ModelEntry", task: "Opened") -> "nn.Module":
    from vitrail.api.embed import open_pixels

    return open_pixels(task.parts["train"]) if entry.path == "pixels" else load_once(entry.path)


def unseen(entry: "ModelEntry", task: "Opened") -> "Opened":
    """The task without test images that the model was trained on."""
    from vitrail.images.samples import Splits
    from vitrail.training.unseen import keep_unseen

    if entry.path == "pixels":
        return task
    splits, notes = keep_unseen(Splits(task.parts["train"], task.parts["test"], task.name), entry.path)
    left = len(task.parts["test"]) - len(splits.test)
    for note in (*([f"{left:,} test images were trained on and are left out"] if left else []), *notes):
        say(f"{entry.called} on {task.name}: {note}")
    return replace(task, parts={**task.parts, "test": splits.test})
