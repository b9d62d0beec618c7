"""The engine of all studies: tasks whose rows stay in one file. The same command goes on, and adds what is new.

study.json      the question: a folder answers one
results.jsonl   one line a task, as soon as it is done
"""

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from vitrail.config import read_object
from vitrail.errors import ConfigError, RunInUse
from vitrail.reports.progress import progress
from vitrail.reports.results import Results
from vitrail.storage import hold_lock, write_whole
from vitrail.study.workers import Failure, each

Task = TypeVar("Task")
Row = TypeVar("Row")

ASKED = "study.json"


@dataclass
class Answers(Generic[Row]):
    """Rows by task, in the order of the tasks, and why some have none."""

    rows: dict[str, list[Row]] = field(default_factory=dict)
    failed: dict[str, Failure] = field(default_factory=dict)

    def __iter__(self) -> Any:
        return (row for rows in self.rows.values() for row in rows)


class Study(Generic[Row]):
    """One study in one folder; `row` is the type of its rows. Get one by `open_study`."""

    def __init__(self, folder: Path, row: type[Row]) -> None:
        self.folder, self.results = folder, Results(folder, row)

    def run(
        self,
        tasks: Sequence[Task],
        work: Callable[[Task], list[Row]],
        *,
        key: Callable[[Task], str] = str,
        worth: Callable[[Task], float] = lambda task: 1.0,
        tell: Callable[[list[Row]], str] = lambda rows: "",
        at_once: int = 1,
        ray: str = "",
        title: str = "cells",
    ) -> Answers[Row]:
        """The rows of all tasks. Those of earlier calls are read; the others are written as soon as they are known.

        `key` names a task in the file; `str` names it on the screen. `worth` is its share of the work, for the time
        left. A task that fails is listed, and the others go on; the next call tries it again.
        """
        tasks = list({key(task): task for task in tasks}.values())  # a value that was named twice is one
        found = {str(task): self.results[key(task)] for task in tasks if key(task) in self.results}
        missing = [task for task in tasks if str(task) not in found]
        failed: dict[str, Failure] = {}
        whole, done = sum(map(worth, missing)), 0.0
        with progress(len(tasks), title, done=len(found), quiet=not missing) as bar:
            if found:
                bar.note(f"{len(found)} of {len(tasks)} {title} are known from before")
            for number, (task, rows) in enumerate(
                each(work, missing, at_once, ray), start=len(tasks) - len(missing) + 1
            ):
                done += worth(task)
                if isinstance(rows, Failure):
                    failed[str(task)] = rows
                    bar.note(f"{task} failed: {rows.why}")
                else:
                    self.results.add(key(task), rows)
                    found[str(task)] = rows
                    bar.note(f"{task}: {tell(rows)}".removesuffix(": "))
                bar.work = done / whole if whole else 0.0
                bar.update(number)
        return Answers({str(task): found[str(task)] for task in tasks if str(task) in found}, failed)


@contextmanager
def open_study(folder: Path, name: str, settings: Mapping[str, Any], row: type[Row]) -> Generator[Study[Row]]:
    """The study in a folder, held by this process.

    Raises ConfigError where the folder answers another question, RunInUse where another process works in it.
    """
    with hold_lock(folder / ".lock") as held:
        if not held:
            raise RunInUse(f"another process works on the study in {folder}", next_step="wait, or choose another `out`")
        _claim(folder / ASKED, {"study": name, **settings})
        yield Study(folder, row)


def _claim(path: Path, settings: Mapping[str, Any]) -> None:
    settings = json.loads(json.dumps(settings))
    begun = read_object(path) if path.is_file() else settings
    changed = [key for key in {**begun, **settings} if begun.get(key) != settings.get(key)]
    if changed:
        raise ConfigError(
            f"{path.parent} holds a study with other settings: "
            + ", ".join(f"{key} {begun.get(key)!r}, not {settings.get(key)!r}" for key in changed),
            next_step="choose another `out`, or remove that folder",
        )
    write_whole(path, json.dumps(settings, indent=1))
