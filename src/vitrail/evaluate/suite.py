"""Transfer suites: any list of models on any list of data sets, the same way; VTAB-1k among them. Resumable.

A suite is a TOML file:

    name = "my transfer suite"
    protocols = ["fewshot", "knn", "linear"]
    seeds = 3

    [[models]]
    path = "runs/photos-1"

    [[tasks]]
    data = "./leaves"
    group = "natural"

    [vtab]
    root = "data/vtab-1k"

Results are rows of `results.jsonl` in its folder, one as soon as it is known; a row whose model, data, protocol and
settings are there already is not measured again."""

import dataclasses
import hashlib
import json
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from vitrail import config as configs
from vitrail.errors import ConfigError, DataError
from vitrail.evaluate import vtab
from vitrail.evaluate.embedding import Extraction, embed, parts_of
from vitrail.evaluate.probing import WIDE, Row, Settings, check_protocols, probe
from vitrail.evaluate.store import Kept, model_digest
from vitrail.evaluate.vtab_data import open_task
from vitrail.images.samples import Source
from vitrail.images.sources import open_data
from vitrail.models import cost
from vitrail.reports.journal import Journal
from vitrail.reports.journal import read as read_rows


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    path: str
    """A run folder, a bundle, a weights file, or the word `pixels`."""
    name: str = ""
    layer: int | None = None
    """The block whose output is read; without it, what the head reads."""
    exaflops: float | None = None
    """What its pre-training cost, where that is known."""

    @property
    def called(self) -> str:
        return self.name or self.path + (f", layer {self.layer}" if self.layer is not None else "")


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    data: str
    """Labelled images, as for `vitrail train`."""
    name: str = ""
    group: str = ""

    @property
    def called(self) -> str:
        return self.name or Path(self.data).name


@dataclass(frozen=True, kw_only=True)
class VtabEntry:
    root: str
    """The folder with one folder for each task."""
    tasks: tuple[str, ...] = tuple(task.name for task in vtab.TASKS)
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Suite:
    """What a suite file says."""

    name: str = ""
    models: tuple[ModelEntry, ...]
    tasks: tuple[TaskEntry, ...] = ()
    vtab: VtabEntry | None = None
    protocols: tuple[str, ...] = ("fewshot", "knn", "linear")
    seeds: int = 3
    holdout: float = 0.2

    def __post_init__(self) -> None:
        check_protocols(self.protocols)
        if not self.models or not (self.tasks or self.vtab):
            raise ConfigError("a suite without models or without tasks", allowed="[[models]], and [[tasks]] or [vtab]")
        for what, names in (("models", self.models), ("tasks", self.tasks)):
            called = [entry.called for entry in names]
            if len(set(called)) < len(called):
                raise ConfigError(f"two {what} are called alike", next_step="give them different names: name = …")


def read_suite(path: Path) -> Suite:
    """Raises ConfigError that names what is wrong with the file."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} is not a readable TOML file ({error})", next_step="see `vitrail suite --help`"
        ) from None
    suite = configs.from_dict(Suite, data, where=str(path))
    return suite if suite.name else dataclasses.replace(suite, name=path.stem)


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
    """A task that could not be opened, and what to do about it."""

    task: str
    why: str


@dataclass(frozen=True)
class Opened:
    name: str
    group: str
    parts: Mapping[str, Source]


def run_suite(
    suite: Suite,
    folder: Path,
    *,
    load: Callable[[ModelEntry, Opened], nn.Module],
    say: Callable[[str], None] = lambda _: None,
    how: Extraction | None = None,
) -> tuple[list[Result], list[Missing]]:
    """All results, old and new, and the tasks whose files are missing. `load` opens a model for a task's images."""
    bench = _Bench(suite, folder, load, say, how or Extraction())
    results: list[Result] = []
    missing: list[Missing] = []
    for name, opener in _openers(suite):
        try:
            task = opener()
        except DataError as error:
            missing.append(Missing(name, str(error)))
            say(f"{name} is left out: {error}")
            continue
        for entry in suite.models:
            results += bench.measure(entry, task)
    return results, missing


def _openers(suite: Suite) -> Iterator[tuple[str, Callable[[], Opened]]]:
    for entry in suite.tasks:

        def named(entry: TaskEntry = entry) -> Opened:
            return Opened(entry.called, entry.group, parts_of(open_data(entry.data, holdout=suite.holdout)))

        yield entry.called, named
    for name in suite.vtab.tasks if suite.vtab else ():
        task = vtab.task(name)

        def of_vtab(task: vtab.Task = task, entry: VtabEntry = suite.vtab) -> Opened:  # pyrefly: ignore
            splits = open_task(task, Path(entry.root), seed=entry.seed)
            return Opened(task.name, task.group, {"train": splits.train1000, "test": splits.test})

        yield name, of_vtab


class _Bench:
    """Measures one model on one task at a time, and knows what was measured before."""

    def __init__(
        self,
        suite: Suite,
        folder: Path,
        load: Callable[[ModelEntry, Opened], nn.Module],
        say: Callable[[str], None],
        how: Extraction,
    ) -> None:
        self.suite, self.folder, self.load, self.say, self.how = suite, folder, load, say, how
        self.journal = Journal(folder / "results.jsonl")
        self.known = {row["key"]: row["results"] for row in read_rows(self.journal.path)}

    def measure(self, entry: ModelEntry, task: Opened) -> list[Result]:
        """The results of every protocol; the model reads the images only where one is not known."""
        model = self.load(entry, task)
        how = extraction(entry, self.suite.protocols, self.how)
        settings = Settings(seeds=tuple(range(self.suite.seeds)))
        prints = [source.fingerprint for source in task.parts.values()]
        told = [entry.called, model_digest(model), str(how.layers), task.name, *prints, str(settings)]
        keys = {name: hashlib.sha256(json.dumps([*told, name]).encode()).hexdigest() for name in self.suite.protocols}
        if any(key not in self.known for key in keys.values()):
            self.say(f"{entry.called} on {task.name}")
            kept, speed = self._embedded(model, task, entry, how)
            facts = {"model": entry.called, "task": task.name, "group": task.group, **costs(model, entry)}
            for name, key in keys.items():
                if key not in self.known:
                    rows = probe(kept, [name], settings, blocks=max(1, len(how.layers)))
                    found = [{**facts, "images_per_s": speed, "row": configs.to_dict(row)} for row in rows]
                    self.journal.append({"key": key, "results": found})
                    self.known[key] = found
        return [configs.from_dict(Result, made) for key in keys.values() for made in self.known[key]]

    def _embedded(
        self, model: nn.Module, task: Opened, entry: ModelEntry, how: Extraction
    ) -> tuple[Kept, float | None]:
        """Features and images per second; None where they came from the cache."""
        cache, began = self.folder / "features", time.perf_counter()
        before = len(list(cache.glob("*")))
        kept = embed(model, task.parts, name=entry.called, how=how, cache=cache)
        computed = len(list(cache.glob("*"))) > before
        return kept, len(kept.keys) / (time.perf_counter() - began) if computed else None


def extraction(entry: ModelEntry, protocols: Sequence[str], how: Extraction) -> Extraction:
    """The blocks that the protocols need."""
    blocks = 1 if entry.path == "pixels" else max(WIDE.get(name, 1) for name in protocols)
    if blocks == 1 and entry.layer is None:
        return how
    last = -1 if entry.layer is None else entry.layer
    return dataclasses.replace(how, layers=tuple(range(last - blocks + 1, last + 1)))


def costs(model: nn.Module, entry: ModelEntry) -> dict[str, float | int | None]:
    """Parameters, GMACs of one image, and what the file says of pre-training."""
    if not hasattr(model, "config"):
        return {"parameters": None, "gmacs": None, "exaflops": None}
    return {"parameters": cost.parameters(model), "gmacs": cost.macs(model) / 1e9, "exaflops": entry.exaflops}
