"""A suite file: models, tasks and protocols, as TOML; and its tasks opened.

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
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from vitrail import config as configs
from vitrail.errors import ConfigError
from vitrail.evaluation import vtab
from vitrail.evaluation.embedding import parts_of
from vitrail.evaluation.probing import check_protocols
from vitrail.images.chain import join
from vitrail.images.samples import Source
from vitrail.images.sources import open_data

FINETUNE = "finetune"
"""The protocol that trains the model itself; all others read its features."""


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    path: str
    """A run folder, a bundle, a weights file, or the word `pixels`."""
    name: str = ""
    layer: int | None = None
    """The block whose output is read; without it, what the head reads."""
    exaflops: float | None = None
    """Compute of its pre-training, where that is known."""

    @property
    def is_pixels(self) -> bool:
        """Whether it is no model: its features are the pixels."""
        return self.path == "pixels"

    @property
    def called(self) -> str:
        return self.name or self.path + (f", layer {self.layer}" if self.layer is not None else "")


@dataclass(frozen=True)
class Opened:
    """The images of a task."""

    name: str
    group: str
    parts: Mapping[str, Source]
    tuning: tuple[Source, Source] | None = None
    """Parts of the training images to train on and to choose by: VTAB's 800 and 200."""


@dataclass(frozen=True, kw_only=True)
class TaskEntry:
    data: str
    """Labelled images, as for `vitrail train`."""
    name: str = ""
    group: str = ""

    @property
    def called(self) -> str:
        return self.name or Path(self.data).name

    def open(self, holdout: float) -> Opened:
        return Opened(self.called, self.group, parts_of(open_data(self.data, holdout=holdout)))


@dataclass(frozen=True, kw_only=True)
class VtabEntry:
    root: str
    """The folder with one folder for each task."""
    tasks: tuple[str, ...] = tuple(task.name for task in vtab.TASKS)

    def open(self, task: vtab.Task) -> Opened:
        splits = vtab.open_task(task, Path(self.root))
        assert splits.val is not None
        parts = {"train": join([splits.train, splits.val]), "test": splits.test}
        return Opened(task.name, task.group, parts, (splits.train, splits.val))


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """How the protocol `finetune` trains; by default as the ViT paper does for VTAB (Table 4)."""

    recipe: str = "finetune:vtab"
    """`finetune_small` for a CPU: a logistic head first, then AdamW, batches of 16, ten epochs."""
    lr: tuple[float, ...] = ()
    """Several are tried on a part of the training images; none: the recipe's."""
    length: str | None = None
    batch_size: int | None = None
    image: int | None = None
    """Side of square images in pixels."""
    micro_batch: int | None = None
    """Images through the model at once, where a batch does not fit into memory; it learns the same."""
    keep: bool = False
    """Keep the weights of every training."""

    def __post_init__(self) -> None:
        if wrong := [lr for lr in self.lr if not lr > 0]:
            raise ConfigError(f"[finetune] lr = {wrong[0]}", allowed="learning rates above 0")


@dataclass(frozen=True, kw_only=True)
class Suite:
    """The content of a suite file."""

    name: str = ""
    models: tuple[ModelEntry, ...]
    tasks: tuple[TaskEntry, ...] = ()
    vtab: VtabEntry | None = None
    protocols: tuple[str, ...] = ("fewshot", "knn", "linear")
    finetune: FineTune = dataclasses.field(default_factory=FineTune)
    seeds: int = 3
    holdout: float = 0.2

    def __post_init__(self) -> None:
        check_protocols(self.protocols, FINETUNE)
        if self.seeds < 1:
            raise ConfigError(f"seeds = {self.seeds}", allowed="1 or more")
        if not self.models or not (self.tasks or self.vtab):
            raise ConfigError("a suite without models or without tasks", allowed="[[models]], and [[tasks]] or [vtab]")
        for what, names in (("models", self.models), ("tasks", self.tasks)):
            called = [entry.called for entry in names]
            if len(set(called)) < len(called):
                raise ConfigError(f"two {what} are called alike", next_step="give them different names: name = …")

    def openers(self) -> Iterator[tuple[str, Callable[[], Opened]]]:
        """Name of each task, and a function that opens it. That raises DataError where its files are missing."""
        for entry in self.tasks:
            yield entry.called, partial(entry.open, self.holdout)
        if self.vtab:
            for name in self.vtab.tasks:
                yield name, partial(self.vtab.open, vtab.task(name))


def read_suite(path: Path) -> Suite:
    """Raises ConfigError that names what is wrong with the file."""
    data = configs.read_toml(path, next_step="see `vitrail suite --help`")
    suite = configs.from_dict(Suite, data, where=str(path))
    return beside_the_file(suite if suite.name else dataclasses.replace(suite, name=path.stem), path.parent)


def beside_the_file(suite: Suite, folder: Path) -> Suite:
    """The same with paths that lie beside the file read from there; all others are relative to the current directory."""

    def place(text: str) -> str:
        return str(folder / text) if text and (folder / text).exists() else text

    models = tuple(dataclasses.replace(m, path=place(m.path), name=m.called) for m in suite.models)
    tasks = tuple(dataclasses.replace(t, data=place(t.data), name=t.called) for t in suite.tasks)
    root = suite.vtab and dataclasses.replace(suite.vtab, root=place(suite.vtab.root))
    return dataclasses.replace(suite, models=models, tasks=tasks, vtab=root)
