"""One table, shown three ways: on a terminal, as JSON, as CSV. Cells keep their values; columns can write them."""

import csv
import io
import json
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TextIO

import rich.table
from rich import box
from rich.text import Text

from vitrail.reports.terminal import clean, console, printable, safe_cell
from vitrail.storage import write_whole

Output = Literal["table", "json", "csv"]
TEXT_WIDTH = 12
"""Letters of a line of text that a narrow terminal leaves."""


@dataclass(frozen=True)
class Column:
    """A name (the key in JSON, the heading in CSV), and how a value is written where people read it."""

    name: str
    format: str = "{}"

    def write(self, value: Any) -> str:
        return "–" if value is None else self.format.format(value)


@dataclass(frozen=True)
class Table:
    """Rows of plain values: strings, numbers, None for "does not exist"."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        assert not wrong, f"a row of {len(wrong[0])} cells in a table of {len(self.columns)} columns"

    def written(self) -> Iterator[tuple[str, ...]]:
        """The rows as people read them."""
        for row in self.rows:
            yield tuple(
                printable(column.write(value), keep="\n") for column, value in zip(self.columns, row, strict=True)
            )

    def is_number(self, index: int) -> bool:
        """Whether a column holds numbers, which are aligned right."""
        cells = [row[index] for row in self.rows if row[index] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)

    def json(self) -> str:
        """A list of objects, one a row."""
        names = [column.name for column in self.columns]
        return json.dumps([dict(zip(names, row, strict=True)) for row in self.rows], ensure_ascii=False, indent=1)

    def csv(self) -> str:
        """A heading and one line a row (RFC 4180, but lines end as Unix lines); empty where there is no value.

        Text that begins with = + - @ has an apostrophe before it: a spreadsheet would run it.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([column.name for column in self.columns])
        writer.writerows(map(safe_cell, row) for row in self.rows)
        return text.getvalue()

    def write(self, path: Path) -> None:
        """Writes the file: JSON for a name that ends so, else CSV. Raises StorageError."""
        write_whole(path, self.json() + "\n" if path.suffix == ".json" else self.csv())

    def terminal(self, width: int = 10_000) -> rich.table.Table:
        """For a rich console. Numbers are never broken: where they do not fit into `width`, the last columns are left out."""
        cells = list(self.written())
        least = [self._least(index, cells) for index in range(len(self.columns))]
        count = len(least)
        while count > 2 and sum(least[:count]) + 3 * count + 1 > width:  # three spaces between columns
            count -= 1
        left_out = ", ".join(column.name.replace("_", " ") for column in self.columns[count:])
        table = rich.table.Table(
            title=clean(self.title, keep="") if self.title else None, box=box.SIMPLE_HEAD, title_justify="left",
            caption=clean(f"no room for: {left_out} (--csv and --json have all)") if left_out else None,
        )  # fmt: skip
        for index, column in enumerate(self.columns[:count]):
            name, is_number = column.name.replace("_", " "), self.is_number(index)
            heading = textwrap.fill(name, least[index], break_long_words=False) if is_number else name
            justify = "right" if is_number else "left"
            table.add_column(clean(heading), justify=justify, no_wrap=is_number, overflow="fold")
        for row in cells:
            table.add_row(*map(Text, row[:count]))
        return table

    def _least(self, index: int, cells: Sequence[tuple[str, ...]]) -> int:
        """The width a column needs: of a number all its digits, of a text a few letters, as it can be folded."""
        longest = max((len(row[index]) for row in cells), default=0)
        words = max(map(len, self.columns[index].name.replace("_", " ").split()), default=0)
        return max(words, longest if self.is_number(index) else min(longest, TEXT_WIDTH))


def show(table: Table, output: Output, file: TextIO | None = None, *, fold: int = 10_000) -> None:
    """Writes the table to `file` (stdout): for people, or for programs as JSON or CSV."""
    if output == "table":
        # in a file or a pipe no line is folded, as it may be read by grep, unless its cells are prose
        width = None if (file or sys.stdout).isatty() else fold
        screen = console(file or sys.stdout, width=width)
        screen.print(table.terminal(screen.width))
    else:
        print(table.json() + "\n" if output == "json" else table.csv(), end="", file=file)
