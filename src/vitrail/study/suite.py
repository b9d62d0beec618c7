"""Transfer suites: any list of models on any list of data sets, the same way; VTAB-1k among them. Resumable.

Results are rows of `results.jsonl` in its folder, one as soon as it is known; a row whose model, data, protocol and
settings are there already is not measured again. `suite_file` reads what is asked for."""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.api.embed import open_pixels
from vitrail.arguments import Precision, Say
from vitrail.errors import ConfigError, DataError, NonFiniteError
from vitrail.evaluation.embedding import Extraction, embed
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.probing import WIDE, Settings, layers_for, probe
from vitrail.hardware import Hardware
from vitrail.images.samples import Splits
from vitrail.models import cost
from vitrail.prediction.forward import model_digest, preprocess_of
from vitrail.reports.page import write_page
from vitrail.reports.tables import Table
from vitrail.study.engine import Study, open_study
from vitrail.study.suite_file import FINETUNE, ModelEntry, Opened, Suite, read_suite
from vitrail.study.suite_report import Missing, Result, cost_table, missing_table, sections, table
from vitrail.study.suite_tuning import Tuner
from vitrail.training.unseen import keep_unseen
from vitrail.weights.bundle import load

Load = Callable[[ModelEntry, Opened], nn.Module]
"""Opens the model of an entry for a task's images."""


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
    results, missing = run_suite(asked, folder, say=say, how=how, hardware=hardware)
    if not results and not missing:
        raise ConfigError("none of the protocols applies to any of the models", next_step="add a protocol or a model")
    if not results:
        raise DataError(
            f"none of the {len(missing)} tasks could be opened: {missing[0].why}", next_step="mend the suite's paths"
        )
    page = write_page(folder / "report.html", asked.name, sections(asked, results, missing))
    return Suited(asked, results, missing, page)


def run_suite(
    suite: Suite, folder: Path, *, load: Load | None = None, say: Say = lambda text: None,
    how: Extraction = Extraction(), hardware: Hardware = Hardware(),  # noqa: B008  # frozen
) -> tuple[list[Result], list[Missing]]:  # fmt: skip
    """All results, old and new, and the tasks whose files are missing."""
    results: list[Result] = []
    missing: list[Missing] = []
    with open_study(folder, "suite", {}, Result) as study:
        tune = Tuner(settings=suite.finetune, seeds=suite.seeds, hardware=hardware, say=say)
        bench = _Bench(suite, study, load or open_models(), say, how, tune)
        for name, open_task in suite.openers():
            try:
                task = open_task()
            except DataError as error:
                missing.append(Missing(name, str(error)))
                say(f"{name} is left out: {error}")
                continue
            for entry in suite.models:
                try:
                    found, gaps = bench.measure(entry, leave_out_trained(say, entry, task))
                except (DataError, NonFiniteError) as error:  # the other tasks do not suffer from it
                    found, gaps = [], [Missing(f"{task.name}, {entry.called}", str(error))]
                    say(f"{entry.called} on {task.name} is left out: {error}")
                results, missing = results + found, missing + gaps
    return results, missing


def open_models() -> Load:
    """Each task has every model, so the last two stay open."""
    load_once = functools.lru_cache(maxsize=2)(load)
    return lambda entry, task: open_pixels(task.parts["train"]) if entry.is_pixels else load_once(entry.path)


def leave_out_trained(say: Say, entry: ModelEntry, task: Opened) -> Opened:
    """The task without test images that the model was trained on."""
    if entry.is_pixels:
        return task
    splits, notes = keep_unseen(Splits(task.parts["train"], task.parts["test"], task.name), entry.path)
    left = len(task.parts["test"]) - len(splits.test)
    for note in (*([f"{left:,} test images were trained on and are left out"] if left else []), *notes):
        say(f"{entry.called} on {task.name}: {note}")
    return dataclasses.replace(task, parts={**task.parts, "test": splits.test})


@dataclass(eq=False)
class _Bench:
    """Measures one model on one task at a time, and knows what was measured before."""

    suite: Suite
    study: Study[Result]
    load: Load
    say: Say
    how: Extraction
    tune: Tuner

    def measure(self, entry: ModelEntry, task: Opened) -> tuple[list[Result], list[Missing]]:
        """The results of every protocol, and why some have none; the model reads the images where one is not known."""
        model = self.load(entry, task)
        layers = layers_for(model, self.suite.protocols, () if entry.layer is None else (entry.layer,))
        how = dataclasses.replace(self.how, layers=layers)
        settings = Settings(seeds=tuple(range(self.suite.seeds)))
        prints = [source.fingerprint for source in task.parts.values()]
        told = [entry.called, model_digest(model), str(how.layers), task.name, *prints, str(settings)]
        keys = {name: _digest([*told, *self._more(name)]) for name in self._protocols(model, entry, how)}
        facts: dict[str, Any] = {"model": entry.called, "task": task.name, "group": task.group, **costs(model, entry)}
        features = functools.cache(lambda: self._embedded(model, task, entry, how))  # taken once, where one is read

        def work(name: str) -> list[Result]:
            if name == FINETUNE:
                began = time.perf_counter()
                row = self.tune(entry, task, self.study.folder / FINETUNE / keys[name][:12])
                return [Result(**facts, row=dataclasses.replace(row, seconds=time.perf_counter() - began))]
            kept, speed = features()
            return [Result(**facts, images_per_s=speed, row=row) for row in probe(kept, [name], settings)]

        found = self.study.run(list(keys), work, key=keys.__getitem__, title=f"{entry.called} on {task.name}")
        failed = [Missing(f"{task.name}, {entry.called}, {name}", one.why) for name, one in found.failed.items()]
        return list(found), failed

    def _protocols(self, model: nn.Module, entry: ModelEntry, how: Extraction) -> list[str]:
        """Those of the suite that this model can be measured by; the others are named on the screen."""
        blocks = max(1, len(how.layers))
        able = []
        for name in self.suite.protocols:
            if not isinstance(model, Pixels) if name == FINETUNE else WIDE.get(name, 1) <= blocks:
                able.append(name)
            else:
                self.say(f"{entry.called}: {name} does not apply, and is left out")
        return able

    def _more(self, protocol: str) -> list[str]:
        """Other settings that decide a protocol's results."""
        learns = dataclasses.replace(self.suite.finetune, micro_batch=None, keep=False)
        return [str(learns), protocol] if protocol == FINETUNE else [protocol]

    def _embedded(
        self, model: nn.Module, task: Opened, entry: ModelEntry, how: Extraction
    ) -> tuple[FeatureTable, float | None]:
        """Features and images per second; None where they came from the cache."""
        cache, began = self.study.folder / "features", time.perf_counter()
        before = len(list(cache.glob("*")))
        kept = embed(model, task.parts, name=entry.called, how=how, cache=cache)
        computed = len(list(cache.glob("*"))) > before
        return kept, len(kept.keys) / (time.perf_counter() - began) if computed else None


def _digest(told: list[str]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def costs(model: nn.Module, entry: ModelEntry) -> dict[str, float | int | None]:
    """Parameters, GMACs of one image at the size it is read, and what the file says of pre-training."""
    if not hasattr(model, "config"):
        return {}
    gmacs = cost.macs(model, preprocess_of(model).size) / 1e9
    return {"parameters": cost.count_parameters(model), "gmacs": gmacs, "exaflops": entry.exaflops}
