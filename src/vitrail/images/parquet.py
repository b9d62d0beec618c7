"""Parquet files of images, as Hugging Face keeps its sets: a column of encoded bytes, a column of labels.

Needs pyarrow (`pip install vitrail[parquet]`). A row group is read whole, so a large file wants to be read in order:
`vitrail data pack` makes shards of it, which can be read in any.
"""

import hashlib
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.config import parse_json
from vitrail.errors import DataError, DecodeError
from vitrail.images.arrow import arrow, plain_errors
from vitrail.images.folders import SPLITS
from vitrail.images.heldout import own_split, split
from vitrail.images.samples import Numbered, Source, Splits
from vitrail.storage import open_regular

_HASHED, _SAMPLE = 1 << 30, 64 << 10  # bytes that a fingerprint reads
_KEPT = 512 << 20  # bytes of row groups kept in memory
MOST_CLASSES = 1 << 20
_IMAGES = ("image", "img", "picture", "photo")
_LABELS = ("label", "labels", "fine_label", "class", "target")


def open_parquet(root: Path, *, holdout: float, seed: int) -> Splits:
    """One file, or a folder of them whose names or folders say train, val or test. Raises DataError."""
    parts: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*.parquet")) if root.is_dir() else [root]:
        parts.setdefault(_part(path.relative_to(root.parent)), []).append(path)
    if "train" not in parts or len(parts) == 1:
        return split(_read([path for part in parts.values() for path in part], root.stem), holdout, seed)
    train = _read(parts.pop("train"), f"{root.stem}/train")
    others = {part: _read(paths, f"{root.stem}/{part}", train.classes) for part, paths in parts.items()}
    if any(source.classes != train.classes for source in others.values()):
        raise DataError(f"the parts of {root} do not have the same classes")
    return own_split({"train": train, **others}, "files'")


def _part(path: Path) -> str:
    words = re.split(r"[^a-z]+", str(path.with_suffix("")).lower())
    return next((part for part, names in SPLITS.items() for word in reversed(words) if word in names), "train")


def _read(paths: list[Path], name: str, known: tuple[str, ...] = ()) -> Source:
    """Labels and sizes of all rows; the images stay where they are. `known` are the classes of the training part: another
    part may lack some of them.
    """
    _, parquet = arrow()
    if odd := [path for path in paths if not path.is_file()]:
        raise DataError(f"{odd[0]} is a folder, a pipe or a device", allowed="Parquet files")
    try:
        with plain_errors():
            files = [parquet.ParquetFile(path) for path in paths]
            image, label = _columns(files[0].schema_arrow, paths[0])
            groups = [(at, group) for at, file in enumerate(files) for group in range(file.num_row_groups)]
            counts = [files[at].metadata.row_group(group).num_rows for at, group in groups]
            cells = [cell for file in files for cell in file.read(columns=[label])[label].to_pylist()]
            names = _names(files[0].schema_arrow, label)
    except (OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{paths[0]} is not a readable Parquet file ({error})") from None
    labels, classes = _labels(cells, names, paths[0], known)
    contents, rows = Rows(tuple(paths), image, tuple(groups), np.cumsum(counts)), np.arange(len(cells))
    return Source(name, classes, labels, Numbered(name, rows), contents, rows)


def _columns(schema: Any, path: Path) -> tuple[str, str]:
    image = next((word for word in _IMAGES if word in schema.names), None)
    label = next((word for word in _LABELS if word in schema.names), None)
    if image is None or label is None:
        raise DataError(
            f"{path} has the columns {', '.join(schema.names)}",
            allowed=f"one of {', '.join(_IMAGES)} with encoded images, and one of {', '.join(_LABELS)}",
        )
    return image, label


def _names(schema: Any, label: str) -> tuple[str, ...]:
    """Class names where Hugging Face wrote them into the file."""
    about = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
    try:
        names = tuple(about.get("info", {}).get("features", {}).get(label, {}).get("names") or ())
    except (AttributeError, TypeError):
        names = (about,)
    if not all(isinstance(name, str) for name in names):
        raise ValueError("its class names are no text")
    return names


def _labels(
    cells: list[Any], names: tuple[str, ...], path: Path, known: tuple[str, ...]
) -> tuple[Int64[np.ndarray, "N"], tuple[str, ...]]:
    if not cells or any(cell is None for cell in cells):
        raise DataError(f"{path} has {cells.count(None)} rows without a label of {len(cells)}")
    if isinstance(cells[0], str):
        classes = known if set(cells) <= set(known) else tuple(sorted(set(cells)))
        index = {name: k for k, name in enumerate(classes)}
        return np.array([index[cell] for cell in cells], np.int64), classes
    labels = np.array(cells)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(f"{path} has labels such as {cells[0]!r}", allowed="words, or numbers from 0")
    if labels.max() >= MOST_CLASSES:
        raise DataError(f"{path} has the label {labels.max():,}", allowed=f"labels below {MOST_CLASSES:,}")
    counted = tuple(str(k) for k in range(int(labels.max()) + 1))
    names = names or (known if known[: len(counted)] == counted else counted)
    if labels.max() >= len(names):
        raise DataError(f"{path} has the label {labels.max()} but {len(names)} class names")
    return labels.astype(np.int64), names


@dataclass(eq=False)
class Rows:
    """The image column of some Parquet files; the row groups read last are kept."""

    _paths: tuple[Path, ...]
    _column: str
    _groups: tuple[tuple[int, int], ...]
    """Of each row group its file, and its number there."""
    _ends: Int64[np.ndarray, "G"]
    """Where it ends, counted in rows of all."""
    _kept: OrderedDict[int, Any] = field(default_factory=OrderedDict, init=False)

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        """Not known without reading them all."""
        return np.full(int(self._ends[-1]), -1, np.int64)

    def digest(self, rows: Int64[np.ndarray, "M"]) -> bytes:
        """Over the files whole up to a GiB; of larger sets over 64 KiB at the beginning, middle and end of each."""
        whole = sum(path.stat().st_size for path in self._paths) <= _HASHED
        digest = hashlib.sha256()
        for path in self._paths:
            with open_regular(path) as file:
                size = path.stat().st_size
                for start in [0] if whole else [0, size // 2, max(0, size - _SAMPLE)]:
                    file.seek(start)
                    digest.update(file.read(-1 if whole else _SAMPLE))
        return digest.digest()

    def read(self, index: int) -> bytes:
        group = int(np.searchsorted(self._ends, index, side="right"))
        try:
            with plain_errors():
                column = self._group(group)
        except (OSError, ValueError) as error:
            raise DecodeError(f"row {index} of {self._paths[0].name} cannot be read ({error})") from None
        cell = column[index - (int(self._ends[group - 1]) if group else 0)].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else cell
        if not isinstance(content, bytes):
            raise DecodeError(f"row {index} of {self._paths[0].name}: no encoded image in column {self._column!r}")
        return content

    def _group(self, group: int) -> Any:
        if group not in self._kept:
            at, number = self._groups[group]
            file = arrow()[1].ParquetFile(self._paths[at])
            self._kept[group] = file.read_row_group(number, [self._column])[self._column]
            while len(self._kept) > 1 and sum(column.nbytes for column in self._kept.values()) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[group]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_kept": OrderedDict()}
