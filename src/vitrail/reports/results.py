"""results.jsonl: the results of many questions, one line a question, kept while the work goes on.

Each line is {"key": the question, "results": [rows]}. A question whose line is there is not asked again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from vitrail import config
from vitrail.reports.journal import Journal, read

Row = TypeVar("Row")


class Results(Generic[Row]):
    """The file `folder`/results.jsonl, whose rows are dataclasses of one type. A line torn by a crash counts as absent."""

    def __init__(self, folder: Path, row: type[Row]) -> None:
        self._row, self._journal = row, Journal(folder / "results.jsonl")
        self._known: dict[str, list[dict[str, Any]]] = {
            line["key"]: line["results"] for line in read(self._journal.path)
        }

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> list[Row]:
        """The rows of a question. ConfigError where they are of another type; KeyError for a question without a line."""
        return [config.from_dict(self._row, row, where=str(self._journal.path)) for row in self._known[key]]

    def add(self, key: str, rows: Sequence[Row]) -> None:
        """Writes the rows of a question at once: its line is whole or absent."""
        self._known[key] = [config.to_dict(row) for row in rows]
        self._journal.append({"key": key, "results": self._known[key]})
