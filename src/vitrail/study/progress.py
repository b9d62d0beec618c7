"""What a study leaves behind while it runs, so that the same command goes on where it was stopped."""

import json
from pathlib import Path
from typing import Any

from vitrail.config import LARGEST, parse_json, read_object
from vitrail.errors import ConfigError, Preempted
from vitrail.images.sources import Splits
from vitrail.storage import read_regular, write_whole
from vitrail.training.loop import Result, train
from vitrail.training.run import Run

ASKED = "study.json"
WHERE = ("hardware", "at_once", "out", "json")
"""What of a study's settings does not change its numbers."""


def claim(folder: Path, name: str, asked: Any) -> None:
    """Writes down what is studied in `folder`; ConfigError where that is another study than the one begun there.

    Hardware may change: it is where, not what.
    """
    asked = {key: value for key, value in vars(asked).items() if key not in WHERE}
    settings = json.loads(json.dumps({"study": name, **asked}))
    path = folder / ASKED
    begun = read_object(path) if path.is_file() else settings
    changed = [key for key in {**begun, **settings} if begun.get(key) != settings.get(key)]
    if changed:
        raise ConfigError(
            f"{folder} holds a study with other settings: "
            + ", ".join(f"{key} {begun.get(key)!r}, not {settings.get(key)!r}" for key in changed),
            next_step="choose another `out`, or remove that folder",
        )
    write(path, settings)


def write(path: Path, content: Any) -> None:
    """JSON: a reader finds the old file or the new one."""
    write_whole(path, json.dumps(content, indent=1))


def stored(path: Path) -> list[Any]:
    """A list that `write` wrote; empty where there is none. ConfigError for one that is damaged."""
    try:
        found = parse_json(read_regular(path, LARGEST)) if path.is_file() else []
        if isinstance(found, list):
            return found
    except (OSError, ValueError):
        pass
    raise ConfigError(f"{path} is damaged", next_step="remove it: its numbers are measured again")


def trained(run: Run, folder: Path, splits: Splits, *, quiet: bool = False) -> Result:
    """The run in `folder` to its end: begun, or gone on with where an earlier study was stopped."""
    begun = (folder / "run.json").is_file()
    try:
        return train(None if begun else run, out=folder, resume=begun, quiet=quiet, splits=splits, check_images=False)
    except Preempted as error:
        stopped = Preempted(error.found, next_step="the same command goes on from there")
        stopped.exit_code = error.exit_code
        raise stopped from None
