"""metrics.jsonl: the numbers of a run, one JSON object a line, readable while it runs and after a crash."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrail.config import parse_json
from vitrail.errors import StorageError
from vitrail.storage import read_regular, write_whole

Callback = Callable[[Mapping[str, Any]], object]
"""Is called with each row of a log: a mapping with step, epoch and numbers."""


LARGEST = 1 << 30
"""Bytes of the longest log that is read."""


class Journal:
    """Appends rows to a file, each whole or absent. Values are JSON values or 0-d arrays; NaN and ±inf become null."""

    def __init__(self, path: str | Path, *, callbacks: Sequence[Callback] = ()) -> None:
        """Opens or starts the file, with its folder. A last line torn by a crash is taken off.

        `callbacks` are given every row that is appended, as plain numbers.
        """
        self.path, self.callbacks = Path(path), tuple(callbacks)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            content = _content(self.path)
        except OSError as error:
            raise _said_no(self.path, error) from None
        if content and not content.endswith(b"\n"):
            _rewrite(self.path, read(self.path))

    def append(self, row: Mapping[str, Any]) -> None:
        """Hands one line to the system at once. A full disk raises StorageError and leaves whole lines."""
        line = _line(row)
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("ab") as file:
                file.write(line)
        except OSError as error:
            if self.path.exists():
                os.truncate(self.path, size)
            raise _said_no(self.path, error) from None
        for callback in self.callbacks:
            callback(_plain(row))

    def rewind(self, step: int) -> None:
        """Drops the rows after `step` (their key "step"): a resumed run writes them again. Rows without a step stay."""
        rows = read(self.path)
        kept = [row for row in rows if row.get("step", step) <= step]
        if len(kept) < len(rows):
            _rewrite(self.path, kept)

    def sync(self) -> None:
        """Waits until the rows are on the disk: with each checkpoint, so that a power cut loses none before it."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())


def read(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a journal. A torn last line (a run that was killed, or is writing now) is left out; any other damage
    raises StorageError with its line number."""
    try:
        lines = _content(Path(path)).split(b"\n")
    except OSError as error:
        raise _said_no(Path(path), error) from None
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is not None:
            rows.append(row)
        elif line and number < len(lines):  # what follows the last newline may be torn
            raise StorageError(
                f"{path}, line {number} is not a JSON object: {line[:60].decode('utf-8', 'replace')!r}",
                next_step="the file was changed by something else; take that line out by hand",
            )
    return rows


def _content(path: Path) -> bytes:
    """All of a log. The device that keeps nothing is the log of every process but the first."""
    return b"" if path == Path(os.devnull) else read_regular(path, LARGEST)


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _line(row: Mapping[str, Any]) -> bytes:
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False).encode() + b"\n"


def _plain(value: Any) -> Any:
    """JSON values only: 0-d tensors and numpy scalars as numbers, NaN and infinity as null (JSON has neither)."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _rewrite(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A crash leaves the old file or the new one."""
    write_whole(path, b"".join(map(_line, rows)))


def _said_no(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path}: {error.strerror or error}", next_step="check the path, its permissions and the free space"
    )
