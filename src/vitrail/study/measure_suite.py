"""`vitrail.suite`: many models on many data sets, from a file; the table, the costs and the page."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from vitrail.api.embed import open_pixels
from vitrail.arguments import Precision
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.embedding import Extraction
from vitrail.hardware import Hardware
from vitrail.images.samples import Splits
from vitrail.reports.page import write_page
from vitrail.reports.tables import Table
from vitrail.study.suite import Missing, Opened, Result, run_suite
from vitrail.study.suite_file import ModelEntry, Suite, read_suite
from vitrail.study.suite_report import cost_table, missing_table, sections, table
from vitrail.study.suite_tuning import Tuner
from vitrail.training.unseen import keep_unseen
from vitrail.weights.bundle import load

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Suited:
    """The results of a suite, old and new."""

    suite: Suite
    results: list[Result]
    missing: list[Missing]
    """Tasks that could not be opened or measured."""
    page: Path

    @property
    def table(self) -> Table:
        """Accuracy of each model on each task, and means over what ran."""
        return table(self.suite, self.results)

    @property
    def costs(self) -> Table:
        return cost_table(self.results)

    @property
    def left_out(self) -> Table:
        return missing_table(self.missing)


def suite(
    file: str | Path, *, out: str | Path | None = None, batch: int = 64, device: str = "auto",
    precision: Precision = "auto", workers: int = -1, say: Say = lambda text: None,
) -> Suited:  # fmt: skip
    """Measures the models of a TOML file on its data sets, all the same way. `vitrail suite --help` shows such a file.

        vitrail.suite("my_suite.toml").table

    Results are kept: the same call goes on, and adds what is new. Test images that a model was trained on are left out.
    Raises ConfigError, and DataError where no task could be opened.

    Args:
        file: The list of models, data sets and protocols, as TOML.
        out: Results, features and the page; runs/ and the file's name without it.
    """
    asked = read_suite(Path(file))
    folder = Path(out or f"runs/{Path(file).stem}")
    how = Extraction(batch_size=batch, device=device, precision=precision, workers=workers)
    hardware = Hardware(device=device, precision=precision, workers=workers)
    tune = Tuner(settings=asked.finetune, seeds=asked.seeds, hardware=hardware, say=say)
    unseen = functools.partial(leave_out_trained, say)
    opened = functools.partial(open_entry, functools.lru_cache(maxsize=2)(load))  # each task has every model
    results, missing = run_suite(asked, folder, load=opened, say=say, how=how, tune=tune, unseen=unseen)
    if not results and not missing:
        raise ConfigError("none of the protocols applies to any of the models", next_step="add a protocol or a model")
    if not results:
        raise DataError(
            f"none of the {len(missing)} tasks could be opened: {missing[0].why}", next_step="mend the suite's paths"
        )
    page = write_page(folder / "report.html", asked.name, sections(asked, results, missing))
    return Suited(asked, results, missing, page)


def open_entry(load_once: Callable[[str], nn.Module], entry: ModelEntry, task: Opened) -> nn.Module:
    return open_pixels(task.parts["train"]) if entry.path == "pixels" else load_once(entry.path)


def leave_out_trained(say: Say, entry: ModelEntry, task: Opened) -> Opened:
    """The task without test images that the model was trained on."""
    if entry.path == "pixels":
        return task
    splits, notes = keep_unseen(Splits(task.parts["train"], task.parts["test"], task.name), entry.path)
    left = len(task.parts["test"]) - len(splits.test)
    for note in (*([f"{left:,} test images were trained on and are left out"] if left else []), *notes):
        say(f"{entry.called} on {task.name}: {note}")
    return replace(task, parts={**task.parts, "test": splits.test})
