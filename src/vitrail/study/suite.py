"""Transfer suites: any list of models on any list of data sets, the same way; VTAB-1k among them. Resumable.

Results are rows of `results.jsonl` in its folder, one as soon as it is known; a row whose model, data, protocol and
settings are there already is not measured again. `suite_file` reads what is asked for."""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.errors import DataError, NonFiniteError
from vitrail.evaluation import vtab
from vitrail.evaluation.embedding import Extraction, embed, parts_of
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.probing import WIDE, Row, Settings, layers_for, probe
from vitrail.images.chain import join
from vitrail.images.samples import Source
from vitrail.images.sources import open_data
from vitrail.models import cost
from vitrail.prediction.forward import model_digest, preprocess_of
from vitrail.study.engine import Study, open_study
from vitrail.study.suite_file import FINETUNE, ModelEntry, Suite, TaskEntry, VtabEntry


@dataclass(frozen=True)
class Result:
    """One row of a suite, and what its model costs."""

    model: str
    task: str
    group: str
    row: Row
    parameters: int | None = None
    gmacs: float | None = None
    exaflops: float | None = None
    images_per_s: float | None = None


@dataclass(frozen=True)
class Missing:
    """A task that could not be opened or measured, and what to do about it."""

    task: str
    why: str


@dataclass(frozen=True)
class Opened:
    name: str
    group: str
    parts: Mapping[str, Source]
    tuning: tuple[Source, Source] | None = None
    """Parts of the training images to train on and to choose by: VTAB's 800 and 200."""


Unseen = Callable[[ModelEntry, Opened], Opened]
"""The task without test images that the model was trained on."""
Tune = Callable[[ModelEntry, Opened, Path], Row]
"""Fine-tunes the model of an entry on a task, in a folder."""


def run_suite(
    suite: Suite,
    folder: Path,
    *,
    load: Callable[[ModelEntry, Opened], nn.Module],
    say: Callable[[str], None] = lambda _: None,
    how: Extraction | None = None,
    tune: Tune | None = None,
    unseen: Unseen = lambda entry, task: task,
) -> tuple[list[Result], list[Missing]]:
    """All results, old and new, and the tasks whose files are missing. `load` opens a model for a task's images; `tune`
    is what the protocol `finetune` does (`study.suite_tuning`). `unseen` leaves out images that a model was trained on.
    """
    results: list[Result] = []
    missing: list[Missing] = []
    with open_study(folder, "suite", {}, Result) as study:
        bench = _Bench(suite, study, load, say, how or Extraction(), tune)
        for name, opener in _openers(suite):
            try:
                task = opener()
            except DataError as error:
                missing.append(Missing(name, str(error)))
                say(f"{name} is left out: {error}")
                continue
            for entry in suite.models:
                try:
                    found, gaps = bench.measure(entry, unseen(entry, task))
                except (DataError, NonFiniteError) as error:  # the other tasks do not suffer from it
                    found, gaps = [], [Missing(f"{task.name}, {entry.called}", str(error))]
                    say(f"{entry.called} on {task.name} is left out: {error}")
                results, missing = results + found, missing + gaps
    return results, missing


def _openers(suite: Suite) -> Iterator[tuple[str, Callable[[], Opened]]]:
    for entry in suite.tasks:

        def named(entry: TaskEntry = entry) -> Opened:
            return Opened(entry.called, entry.group, parts_of(open_data(entry.data, holdout=suite.holdout)))

        yield entry.called, named
    for name in suite.vtab.tasks if suite.vtab else ():
        task = vtab.task(name)

        def of_vtab(task: vtab.Task = task, entry: VtabEntry = suite.vtab) -> Opened:  # pyrefly: ignore
            splits = vtab.open_task(task, Path(entry.root))
            assert splits.val is not None
            parts = {"train": join([splits.train, splits.val]), "test": splits.test}
            return Opened(task.name, task.group, parts, (splits.train, splits.val))

        yield name, of_vtab


@dataclass(eq=False)
class _Bench:
    """Measures one model on one task at a time, and knows what was measured before."""

    suite: Suite
    study: Study[Result]
    load: Callable[[ModelEntry, Opened], nn.Module]
    say: Callable[[str], None]
    how: Extraction
    tune: Tune | None

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
                return [Result(**facts, row=self._tuned(entry, task, keys[name]))]
            kept, speed = features()
            rows = probe(kept, [name], settings)
            return [Result(**facts, images_per_s=speed, row=row) for row in rows]

        found = self.study.run(list(keys), work, key=keys.__getitem__, title=f"{entry.called} on {task.name}")
        failed = [Missing(f"{task.name}, {entry.called}, {name}", one.why) for name, one in found.failed.items()]
        return list(found), failed

    def _tuned(self, entry: ModelEntry, task: Opened, key: str) -> Row:
        assert self.tune is not None
        began = time.perf_counter()
        row = self.tune(entry, task, self.study.folder / FINETUNE / key[:12])
        return dataclasses.replace(row, seconds=time.perf_counter() - began)

    def _protocols(self, model: nn.Module, entry: ModelEntry, how: Extraction) -> list[str]:
        """Those of the suite that this model can be measured by; the others are named on the screen."""
        trains = self.tune is not None and not isinstance(model, Pixels)
        can = {
            name: trains if name == FINETUNE else WIDE.get(name, 1) <= max(1, len(how.layers))
            for name in self.suite.protocols
        }
        for name in (name for name, possible in can.items() if not possible):
            self.say(f"{entry.called}: {name} does not apply, and is left out")
        return [name for name, possible in can.items() if possible]

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


def _digest(told: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def costs(model: nn.Module, entry: ModelEntry) -> dict[str, float | int | None]:
    """Parameters, GMACs of one image at the size it is read, and what the file says of pre-training."""
    if not hasattr(model, "config"):
        return {"parameters": None, "gmacs": None, "exaflops": None}
    size = preprocess_of(model).size
    gmacs = cost.macs(model, size) / 1e9
    return {"parameters": cost.count_parameters(model), "gmacs": gmacs, "exaflops": entry.exaflops}
