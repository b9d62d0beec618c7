"""A table read back from JSON and CSV is the table; on a terminal it is written as its columns say."""

import csv
import io
import json

import pytest
from rich.console import Console

from vitrail.reports.tables import Column, Table, show

TABLE = Table(
    (Column("file"), Column("top1", "{:.1%}"), Column("n", "{:,}")),
    (('a, "b"\n[red].png', 0.98765, 1797), ("ü.png", None, 5)),
    title="Scores [bold]",
)


def test_json_has_the_values_not_their_rounding(capsys):
    show(TABLE, "json")
    first, second = json.loads(capsys.readouterr().out)
    assert first == {"file": 'a, "b"\n[red].png', "top1": 0.98765, "n": 1797} and second["top1"] is None


def test_csv_reads_back(capsys):
    show(TABLE, "csv")
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [["file", "top1", "n"], ['a, "b"\n[red].png', "0.98765", "1797"], ["ü.png", "", "5"]]


def test_on_a_terminal_numbers_are_rounded_and_nothing_is_read_as_markup(capsys):
    show(TABLE, "table")
    text = capsys.readouterr().out
    assert "Scores [bold]" in text and "[red].png" in text and "98.8%" in text and "1,797" in text and "–" in text
    assert TABLE.is_number(1) and not TABLE.is_number(0)


def test_an_empty_table_is_still_a_table():
    empty = Table((Column("a"), Column("b")), ())
    assert json.loads(empty.json()) == [] and empty.csv() == "a,b\n"


def test_in_a_pipe_long_cells_are_not_folded(capsys):
    path = "/".join(["a folder"] * 40)
    show(Table((Column("file"), Column("answer")), ((path, "cat"),)), "table")
    assert any(path in line and "cat" in line for line in capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_narrow_terminal_drops_columns_and_breaks_no_number(width: int) -> None:
    names = ("features", "protocol", "accuracy_%", "low", "high", "seconds")
    row = ("/a/long/path/to/features.safetensors", "nearest-mean", 61.123, 50.0, 70.25, 12345.5)
    columns = [Column(name, "{:.2f}" if index > 1 else "{}") for index, name in enumerate(names)]
    table = Table(tuple(columns), (row,) * 3)
    file = io.StringIO()
    Console(file=file, width=width).print(table.terminal(width))
    text = file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    shown = [f"{value:.2f}" for value in row[2:] if f"{value:.2f}" in text]
    left_out = [name.replace("_", " ") for name in names[2 + len(shown) :]]
    said = " ".join(text.partition("no room for")[2].split())
    assert all(text.count(number) == 3 for number in shown) and all(name in said for name in left_out)
    assert len(shown) == 4 or width < 80
