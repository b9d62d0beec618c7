"""The engine of all studies: tasks, side by side if asked for, and their rows in one file. The same command goes on.

study.json      the question: a folder answers one
results.jsonl   one line a task, as soon as it is done
"""

import functools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from vitrail.config import read_object
from vitrail.errors import ConfigError, DataError, Preempted
from vitrail.images.samples import Splits
from vitrail.images.sources import open_data
from vitrail.recipes.request import Given
from vitrail.reports.results import Results
from vitrail.storage import write_whole
from vitrail.study.parallel import each
from vitrail.training.loop import Result, train
from vitrail.training.run import Run

Task = TypeVar("Task")
Row = TypeVar("Row")

ASKED = "study.json"
WHERE = ("hardware", "at_once", "out", "json", "download")
"""Settings of a study that do not change its numbers."""


class Study(Generic[Row]):
    """One study in one folder. `asked` is a dataclass of settings, `row` the type of one result."""

    def __init__(self, folder: Path, name: str, asked: Any, row: type[Row]) -> None:
        """Raises ConfigError where the folder holds another study."""
        claim(folder, name, asked)
        self.results = Results(folder, row)

    def run(
        self, tasks: Sequence[Task], work: Callable[[Task], list[Row]], at_once: int
    ) -> Iterator[tuple[Task, list[Row], bool]]:
        """(task, its rows, whether it was done now): earlier tasks first, the others as they are done.

        A task is known by its `str`.
        """
        missing = [task for task in tasks if str(task) not in self.results]
        yield from ((task, self.results[str(task)], False) for task in tasks if str(task) in self.results)
        for task, rows in each(work, missing, at_once):
            self.results.add(str(task), rows)
            yield task, rows, True


def claim(folder: Path, name: str, asked: Any) -> None:
    """Writes the question into `folder`; ConfigError where that holds another. Hardware may change."""
    settings = {key: value for key, value in vars(asked).items() if key not in WHERE}
    settings = json.loads(json.dumps({"study": name, **settings}))
    path = folder / ASKED
    begun = read_object(path) if path.is_file() else settings
    changed = [key for key in {**begun, **settings} if begun.get(key) != settings.get(key)]
    if changed:
        raise ConfigError(
            f"{folder} holds a study with other settings: "
            + ", ".join(f"{key} {begun.get(key)!r}, not {settings.get(key)!r}" for key in changed),
            next_step="choose another `out`, or remove that folder",
        )
    write_whole(path, json.dumps(settings, indent=1))


def train_to_end(run: Run, folder: Path, splits: Splits, *, quiet: bool = False) -> Result:
    """Trains in `folder`, or goes on where a training of this folder stopped."""
    begun = (folder / "run.json").is_file()
    try:
        return train(None if begun else run, out=folder, resume=begun, quiet=quiet, splits=splits, check_images=False)
    except Preempted as error:
        stopped = Preempted(error.found, next_step="the same command goes on from there")
        stopped.exit_code = error.exit_code
        raise stopped from None


@functools.cache
def open_labelled(data: str) -> tuple[Splits, Given]:
    """The images, opened once a process, and what a recipe needs to know of them. DataError without classes."""
    splits = open_data(data)
    train_set = splits.train
    if len(train_set.classes) < 2:
        raise DataError(f"{data} has no classes to measure by", next_step="a study needs labelled images")
    return splits, Given(images=len(train_set), classes=len(train_set.classes), shape=train_set.shape)
