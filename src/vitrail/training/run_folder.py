"""The run folder: where everything of a run lies, and the lock that keeps two processes out of one.

run.json        the Run, with every measured choice
metrics.jsonl   one JSON object a line
checkpoints/    step-XXXXXXXX/, the newest two
best/  last/    model.safetensors + record.json, for `vitrail.load`
skipped.jsonl   each file of the folder that was skipped, and why
baselines.json  accuracy of cheap answers on the held-out images
trained.keys    the contents that its weights were trained on; start.keys: those of the weights it started from
report.html     the report; predictions.png beside it
"""

import contextlib
import itertools
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitrail import config
from vitrail.checkpoints.write import list_steps
from vitrail.errors import ConfigError, RunInUse, StorageError
from vitrail.images.files import SUFFIXES
from vitrail.images.folders import LEAVES
from vitrail.processes.world import World
from vitrail.storage import hold_lock, write_whole
from vitrail.training.run import Run, read_run

BASELINES, SKIPPED = "baselines.json", "skipped.jsonl"


class RunFolder:
    """A run folder held by this process: `with RunFolder.create(run, out) as folder`. Two holders at once: StorageError.

    The first process of a run `leads`: it alone locks the folder, checks it and writes into it.
    """

    def __init__(self, path: Path, run: Run, *, new: bool = False, leads: bool = True) -> None:
        self.path, self.run = path, run
        self.checkpoints, self.best, self.last = path / "checkpoints", path / "best", path / "last"
        self.metrics, self.report = path / "metrics.jsonl" if leads else Path(os.devnull), path / "report.html"
        self._new, self._leads, self._lock = new, leads, contextlib.ExitStack()

    @classmethod
    def open(cls, run: Run | None, path: Path | None, resume: bool, world: World) -> "RunFolder":
        """The folder of a new or an earlier run. The first rank makes and locks it; the others only read."""
        if path is None and (resume or not world.leads):
            raise ConfigError(
                "no run folder was named", next_step="name it: several processes and a resumed run need to know it"
            )
        if path and not world.leads:
            return cls(path, run or Run(), leads=False)
        return cls.reopen(path) if resume and path else cls.create(run or Run(), path)

    @classmethod
    def create(cls, run: Run, path: Path | None) -> "RunFolder":
        """A new folder; `None` numbers one under `runs/`. A folder that already holds a run is refused."""
        path = path or next_free(Path("runs"), run)
        folder = cls(path, run, new=True)
        folder._refuse_a_second_run()
        folder._refuse_what_is_no_run()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{path} cannot be made ({error.strerror})", next_step="choose another `out`") from None
        return folder

    def _refuse_a_second_run(self) -> None:
        if (self.path / "run.json").exists():
            raise ConfigError(
                f"{self.path} already holds a run",
                next_step=f"go on with `resume='{self.path}'`, or choose another `out`",
            )

    def _refuse_what_is_no_run(self) -> None:
        """Weights and checkpoints among somebody's photographs would be classes of the next training."""
        there = sorted(set(self.path.iterdir()) - {self.path / ".lock"}) if self.path.is_dir() else []
        if others := [entry.name for entry in there if entry.is_dir() or entry.suffix.lower() in SUFFIXES]:
            raise ConfigError(
                f"{self.path} holds folders or images already ({others[0]}{', …' if len(others) > 1 else ''})",
                allowed="a new folder, an empty one, or one with a log in it",
                next_step="choose another `out`",
            )

    @classmethod
    def reopen(cls, path: Path) -> "RunFolder":
        """The folder of an earlier run, with the Run it was started with."""
        return cls(path, cls.read(path))

    @staticmethod
    def read(path: Path | None) -> Run:
        """The Run in a folder. Raises ConfigError where there is none."""
        if path is None or not (path / "run.json").is_file():
            raise ConfigError(
                f"{path} is no run folder: it has no run.json", next_step="name the folder a training printed"
            )
        return read_run(path / "run.json")

    def __enter__(self) -> "RunFolder":
        if not self._leads:
            self.run = read_run(self.path / "run.json") if (self.path / "run.json").is_file() else self.run
            return self
        for entry in self.path.iterdir():
            if entry.is_symlink():
                raise StorageError(
                    f"{entry} is a link: a run writes inside its own folder only", next_step="remove the link"
                )
        with contextlib.ExitStack() as stack:
            if not stack.enter_context(hold_lock(self.path / ".lock")):
                raise RunInUse(
                    f"another process is training in {self.path}", next_step="wait for it, or choose another `out`"
                )
            if self._new:  # another process may have come and gone since this one looked
                self._refuse_a_second_run()
            self._lock = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        there = self.path.iterdir() if self.path.is_dir() else ()  # it may have been moved away
        if self._new and {path.name for path in there} <= {".lock"}:  # it never began
            shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()

    def check_place(self, since: str) -> None:
        """Raises StorageError where this folder was removed or moved while it was held; `since` says what is lost."""
        if self._leads and not (self.path / ".lock").exists():  # a folder that a save made again has none
            raise StorageError(
                f"the run folder {self.path} was removed or moved while the run wrote into it; lost is {since}",
                next_step="where it was moved, resume it from there; else start the run again",
            )

    def save(self, run: Run) -> None:
        """Writes run.json."""
        self.run = run
        if self._leads:
            write_whole(self.path / "run.json", config.sealed_json(run))

    def save_skipped(self, skipped: Sequence[tuple[str, str]]) -> None:
        """Writes skipped.jsonl, where files were skipped: a key and a reason a line."""
        lines = [json.dumps({"key": key, "reason": reason}, ensure_ascii=False) for key, reason in skipped]
        if lines and self._leads:
            write_whole(self.path / SKIPPED, "\n".join(lines) + "\n")

    def save_baselines(self, found: Mapping[str, float]) -> None:
        """Writes baselines.json, where there are any."""
        if found and self._leads:
            write_whole(self.path / BASELINES, json.dumps(found, indent=1))

    @property
    def baselines(self) -> dict[str, float]:
        path = self.path / BASELINES
        return config.read_object(path) if path.is_file() else {}

    def check_room(self, checkpoint: int) -> None:
        """Raises StorageError unless two checkpoints of so many bytes fit on the disk, or one beside those that are there."""
        free, more = shutil.disk_usage(self.path).free, 1 if list_steps(self.checkpoints) else 2
        if self._leads and free < more * checkpoint:
            raise StorageError(
                f"{self.path} has {free / 1e6:,.1f} MB left for {more} more checkpoints of {checkpoint / 1e6:,.1f} MB",
                next_step="free some space, or choose another `out`",
            )


def next_free(parent: Path, run: Run) -> Path:
    """runs/digits-1, runs/digits-2, …: the first that is free."""
    stem = re.sub(r"[\W_]+", "-", Path(run.data.removesuffix(LEAVES)).name or run.recipe).strip("-").lower() or "run"
    places = (parent / f"{stem}-{number}" for number in itertools.count(1))
    return next(place for place in places if not place.exists())
