"""CSV and TSV files that list images and their labels; every problem of a file is found before it is refused.

The first line names the columns. `path` (or `file`, `image`) is from the list's own folder; `label` (or `class`) is one
class, `labels` (or `classes`) several, separated by | or ;. `value` (or `target`, `number`) is a number to predict; so is
a `label` whose every cell is a number and not all are whole. A column `split` may say train, val or test.
"""

import csv
import io
import os
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from vitrail.errors import DataError, suggest
from vitrail.images.exact_duplicates import group_alike
from vitrail.images.files import Files, key_of, path_of
from vitrail.images.findings import counted
from vitrail.images.folders import SPLITS
from vitrail.images.heldout import own_split, split
from vitrail.images.samples import Source, Splits
from vitrail.storage import read_regular

COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class"),
    "labels": ("labels", "classes"),
    "value": ("value", "target", "number"),
    "split": ("split",),
}
LARGEST = 1 << 30
"""Bytes of the largest list."""
_SHOWN = 8  # problems written out; the rest are counted


@dataclass(frozen=True)
class Row:
    line: int
    key: str
    labels: tuple[str, ...]
    split: str


def open_manifest(path: Path, *, holdout: float, seed: int) -> Splits:
    """The images that a CSV or TSV file lists. Raises DataError with all that is wrong with it."""
    columns, rows = read_rows(path)
    numeric = "value" in columns or ("label" in columns and _are_measured(rows))
    sizes, problems = _check(path, rows)
    problems += _no_numbers(rows) if numeric else [*_alike(rows), *_unlearned(rows)]
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{path} has {counted(len(problems), 'problem')}: " + "; ".join(problems[:_SHOWN]) + more,
            next_step="mend these lines",
        )
    classes = tuple(sorted({label for row in rows for label in row.labels}, key=_natural))
    if numeric:
        targets = np.array([[float(row.labels[0])] for row in rows], np.float32)
        classes = ("value" if "value" in columns else "label",)
    else:
        targets = _targets(rows, classes, several="labels" in columns)
    keys = [row.key for row in rows]
    files = Files(path.parent, keys, sizes)
    notes = () if numeric else tuple(_perhaps_numbers(classes, rows))
    whole = Source(path.stem, classes, targets, keys, files, np.arange(len(rows)), notes=notes, numeric=numeric)
    if not any(row.split for row in rows):
        return split(whole, holdout, seed)
    parts = {part: [at for at, row in enumerate(rows) if row.split == part] for part in SPLITS}
    return own_split({part: whole.subset(members) for part, members in parts.items() if members}, "list's")


def read_rows(path: Path) -> tuple[dict[str, int], list[Row]]:
    """(which column is what, the rows). Raises DataError for a file that is no table or has no such columns."""
    try:
        text = io.StringIO(read_regular(path, LARGEST).decode("utf-8-sig", "surrogateescape"), newline="")
        lines = list(csv.reader(text, delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True))
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} is not a readable table ({error})") from None
    columns = _columns(path, lines[0] if lines else [])
    if len(lines) < 2:
        raise DataError(f"{path} lists no images", next_step="one line for each image after the line of column names")
    ragged = [number for number, line in enumerate(lines, 1) if line and len(line) != len(lines[0])]
    if ragged:
        raise DataError(
            f"{path}, lines {ragged[:_SHOWN]}: not {len(lines[0])} cells", next_step="quote cells with commas"
        )
    return columns, [_row(number, line, columns) for number, line in enumerate(lines[1:], 2) if line]


def _columns(path: Path, header: list[str]) -> dict[str, int]:
    words = [word.strip().lower() for word in header]
    columns = {what: words.index(name) for what, names in COLUMNS.items() for name in names if name in words}
    if "path" not in columns or len({"label", "labels", "value"} & columns.keys()) != 1:
        hint = next((text for word in words if (text := suggest(word, ("path", "label", "labels", "value")))), "")
        if header and header[0].startswith(("\udcff\udcfe", "\udcfe\udcff")):
            hint = "it is UTF-16: save it as UTF-8"
        if len(words) == 1 and ";" in words[0]:
            hint = "its columns are parted by ';': save it with commas, and numbers with a point"
        raise DataError(
            f"the first line of {path} is {', '.join(map(repr, header[:6])) or 'empty'}",
            allowed="column names: path, one of label, labels and value, and split if there is one",
            next_step=hint,
        )
    return columns


def _row(number: int, line: list[str], columns: dict[str, int]) -> Row:
    several = "labels" in columns
    text = line[next(columns[name] for name in ("labels", "label", "value") if name in columns)]
    labels = tuple(word for part in re.split(r"[|;]", text) if (word := part.strip())) if several else (text.strip(),)
    part = line[columns["split"]].strip().lower() if "split" in columns else ""
    part = next((name for name, words in SPLITS.items() if part in words), part)
    return Row(number, key_of(line[columns["path"]].strip()), labels, part)


def _check(path: Path, rows: list[Row]) -> tuple[Int64[np.ndarray, "N"], list[str]]:
    """Sizes of the files, and every problem in the words of an error."""
    sizes, problems, found = np.zeros(len(rows), np.int64), [], []
    for at, row in enumerate(rows):
        try:
            state = os.stat(file := path.parent / path_of(row.key))
        except (OSError, ValueError):
            problems.append(f"line {row.line}: there is no file {row.key!r}")
            continue
        sizes[at] = state.st_size
        found.append((os.path.realpath(file), row))
        if not stat.S_ISREG(state.st_mode):
            problems.append(f"line {row.line}: {row.key!r} is a folder, a pipe or a device, not a file")
        if "" in row.labels:
            problems.append(f"line {row.line}: no label for {row.key!r}")
    return sizes, [*problems, *_repeated(found), *_wrong_splits(rows)]


def _are_measured(rows: list[Row]) -> bool:
    """Whether all labels are numbers and some are not whole: 3.5 is no class."""
    values = [_number(row.labels[0]) for row in rows]
    return all(value is not None for value in values) and any(value != round(value) for value in values if value)


def _perhaps_numbers(classes: tuple[str, ...], rows: list[Row]) -> Iterator[str]:
    """A note for whole numbers of which hardly two are alike: years or prices are no classes."""
    if len(classes) > max(10, len(rows) / 4) and all(_number(name) is not None for name in classes):
        yield f"the labels are {len(classes):,} different numbers, and count as classes; call the column value to learn numbers"


def _number(text: str) -> float | None:
    """The number in a cell that float32 holds; None for anything else."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) <= float(np.finfo(np.float32).max) else None  # nor for NaN


def _no_numbers(rows: list[Row]) -> list[str]:
    wrong = [row for row in rows if row.labels[0] and _number(row.labels[0]) is None]
    return [f"line {row.line}: {row.labels[0]!r} is no number" for row in wrong]


def _alike(rows: list[Row]) -> Iterator[str]:
    """Labels that differ in case or in how an accent is written, as folders of two classes may not."""
    first = {label: row.line for row in reversed(rows) for label in reversed(row.labels)}
    spelt = sorted(first, key=first.__getitem__)
    for same in group_alike((unicodedata.normalize("NFC", label).casefold(), label) for label in spelt):
        at = ", ".join(str(first[label]) for label in same)
        yield f"lines {at}: one label in {len(same)} spellings, {', '.join(map(repr, same))}"


def _repeated(found: list[tuple[str, Row]]) -> Iterator[str]:
    """One file on several lines, by whatever path: `a.png`, `./a.png`, absolute, through a link."""
    for same in group_alike(found):
        at = ", ".join(str(row.line) for row in same)
        labels = {row.labels for row in same}
        kind = "with different labels" if len(labels) > 1 else "twice" if len(same) == 2 else f"{len(same)} times"
        yield f"lines {at}: {same[0].key!r} is listed {kind}"


def _wrong_splits(rows: list[Row]) -> list[str]:
    splits = Counter(row.split for row in rows)
    if set(splits) == {""}:
        return []
    unknown = [
        f"line {row.line}: split {row.split!r} is not train, val or test" for row in rows if row.split not in SPLITS
    ]
    if not splits["train"] or not (splits["val"] or splits["test"]):
        unknown.append("the column split names no train, or neither val nor test")
    return unknown


def _unlearned(rows: list[Row]) -> list[str]:
    """Classes that only held-out images have."""
    if {row.split for row in rows} == {""}:
        return []
    known = {label for row in rows if row.split == "train" for label in row.labels}
    others = sorted({label for row in rows for label in row.labels} - known)
    return [f"class {label!r} is not among the training images" for label in others]


def _natural(label: str) -> tuple[int, int, str]:
    """Numbers by their value, then words."""
    return (0, int(label), "") if label.isdecimal() and label.isascii() else (1, 0, label)


def _targets(
    rows: list[Row], classes: tuple[str, ...], *, several: bool
) -> Int64[np.ndarray, "N"] | Float32[np.ndarray, "N K"]:
    index = {name: k for k, name in enumerate(classes)}
    if not several:
        return np.array([index[row.labels[0]] for row in rows], np.int64)
    targets = np.zeros((len(rows), len(classes)), np.float32)
    for at, row in enumerate(rows):
        targets[at, [index[label] for label in row.labels]] = 1
    return targets
