"""Shards: many images in a few tar files, with an index, so that any one can be read at once and the order is exact.

A folder of shards holds plain tar files that any tool can unpack, and two index files. `index.json` has classes, splits and
the shards' sizes; `index.npz` has place, label, checksum and key of each image. The index is written last.
"""

import contextlib
import io
import json
import os
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, Int64, UInt32
from PIL import Image

from vitrail.config import from_dict, read_object, to_dict
from vitrail.errors import ConfigError, DataError, DecodeError, StorageError
from vitrail.images.files import path_of
from vitrail.images.npy import read_archive
from vitrail.images.samples import Source, Splits
from vitrail.storage import whole_folder

INDEX, ARRAYS = "index.json", "index.npz"
FORMAT = "vitrail shards 1"
COLUMNS = {"shards": np.int32, "offsets": np.int64, "sizes": np.int64, "sums": np.uint32}
"""Of each image its tar file, its place and length in bytes, its checksum."""
_HANDLES = 64  # shards that a process keeps open: a large set has more of them than a process may open files


def pack(
    splits: Splits, out: Path, *, shard_bytes: int = 256 << 20, tick: Callable[[int], object] = lambda done: None
) -> Path:
    """Writes all parts of `splits` as shards of about `shard_bytes` into the new folder `out`; images stay as they are encoded.

    `tick` hears how many images are done. The folder appears whole or not at all.
    """
    if out.exists():
        raise StorageError(f"{out} is there already", next_step="name a folder that is not")
    names: list[str] = []
    places: list[tuple[int, int, int, int]] = []
    with whole_folder(out) as aside, contextlib.ExitStack() as opened:
        tar: tarfile.TarFile | None = None
        for part, source in splits.parts.items():
            for index in range(len(source)):
                if tar is None or tar.offset > shard_bytes:
                    opened.close()
                    names.append(f"shard-{len(names):05d}.tar")
                    tar = opened.enter_context(tarfile.open(aside / names[-1], "w", format=tarfile.PAX_FORMAT))
                content = _encoded(source[index].content)
                offset = _append(tar, f"{part}/{source.keys[index]}", content)
                places.append((len(names) - 1, offset, len(content), zlib.crc32(content)))
                tick(len(places))
        opened.close()
        _write_index(aside, names, places, splits)
    return out


def _append(tar: tarfile.TarFile, key: str, content: bytes) -> int:
    """The offset of the contents in the file."""
    entry = tarfile.TarInfo(path_of(key))
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
    padded = -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return tar.offset - padded


def _encoded(content: bytes | np.ndarray) -> bytes:
    """Bytes as they are; an array as PNG, or .npy where it has neither 1 nor 3 channels: both give the same pixels back."""
    if isinstance(content, bytes):
        return content
    file = io.BytesIO()
    if content.shape[2] in (1, 3):
        Image.fromarray(content.squeeze(2) if content.shape[2] == 1 else content).save(file, "PNG")
    else:
        np.save(file, content)
    return file.getvalue()


@dataclass(frozen=True, kw_only=True)
class Index:
    """The file index.json."""

    format: str = FORMAT
    name: str
    classes: tuple[str, ...]
    parts: dict[str, int]
    """Images of train, val and test, in this order in the columns."""
    how: str
    drawn: bool = False
    published: bool = False
    notes: tuple[str, ...] = ()
    shape: tuple[int, int, int] | None = None
    """H W C where a set that lay in memory was packed."""
    numeric: bool = False
    """Whether the labels are numbers, not classes."""
    shards: dict[str, int]
    """The tar files and their sizes in bytes."""


def _write_index(folder: Path, names: list[str], places: list[tuple[int, int, int, int]], splits: Splits) -> None:
    first, parts = splits.train, splits.parts
    columns = zip(COLUMNS.items(), np.array(places, np.int64).reshape(-1, 4).T, strict=True)
    np.savez(
        folder / ARRAYS,
        labels=np.concatenate([source.labels for source in parts.values()]),
        keys=np.frombuffer("\n".join(key for source in parts.values() for key in source.keys).encode(), np.uint8),
        **{name: values.astype(kind) for (name, kind), values in columns},  # pyrefly: ignore[bad-argument-type]
    )
    index = Index(
        name=first.name, classes=first.classes, parts={name: len(source) for name, source in parts.items()},
        how=splits.how, drawn=splits.drawn, published=splits.published, notes=first.notes, shape=first.shape,
        numeric=first.numeric, shards={name: os.path.getsize(folder / name) for name in names},
    )  # fmt: skip
    (folder / INDEX).write_text(json.dumps(to_dict(index), ensure_ascii=False, indent=1), "utf-8")


def is_packed(root: Path) -> bool:
    """Whether this is a folder that `pack` wrote."""
    return (root / INDEX).is_file() and (root / ARRAYS).is_file()


def open_shards(root: Path) -> Splits:
    """A folder that `pack` wrote, with the split it was packed with. Raises DataError where a shard is missing or cut."""
    try:
        index = from_dict(Index, read_object(root / INDEX, DataError), where=str(root / INDEX))
        columns = dict(read_archive(root / ARRAYS))
        keys = columns["keys"].tobytes().decode().split("\n")
        _check(index, columns, len(keys), root)
    except (ConfigError, DataError, ValueError, KeyError) as error:
        raise DataError(f"the shards in {root} are not whole ({error})", next_step="copy or pack them again") from None
    contents = Shards(root, tuple(index.shards), index.shape, *(columns[name] for name in COLUMNS))
    first, parts = 0, {}
    for part, count in index.parts.items():
        rows = np.arange(first, first + count)
        notes = index.notes if part == "train" else ()
        parts[part] = Source(
            index.name, index.classes, columns["labels"][rows], keys[first : first + count], contents, rows, notes,
            numeric=index.numeric,
        )  # fmt: skip
        first += count
    return Splits(parts["train"], parts["test"], index.how, parts.get("val"), index.drawn, index.published)


def _check(index: Index, columns: dict[str, np.ndarray], keys: int, root: Path) -> None:
    """Raises DataError unless the columns have their lengths and ranges, and the shards their sizes."""
    if index.format != FORMAT:
        raise DataError(f"{root / INDEX} has the format {index.format!r}", allowed=repr(FORMAT))
    images, labels = sum(index.parts.values()), columns["labels"]
    several = labels.ndim == 2 and labels.shape[1] == len(index.classes)
    single = labels.ndim == 1 and labels.dtype.kind == "i"
    wrong = {
        "parts": min(index.parts.values(), default=0) < 0 or not {"train", "test"} <= index.parts.keys(),
        "shape": index.shape is not None and min(index.shape) < 1,
        "lengths": {keys, len(labels), *(len(columns[name]) for name in COLUMNS)} != {images},
        "places": images > 0 and not _are_places(columns, list(index.shards.values())),
        "labels": not several and not (single and bool(((labels >= -1) & (labels < len(index.classes))).all())),
    }
    if found := [name for name, is_wrong in wrong.items() if is_wrong]:
        raise DataError(f"{root / INDEX} does not fit its shards: {', '.join(found)}")
    for name, size in index.shards.items():
        if os.path.basename(name) != name or name in ("", ".", ".."):
            raise DataError(f"{root / INDEX} names the shard {name!r}", allowed="files of its own folder")
        if not (root / name).is_file() or os.path.getsize(root / name) != size:
            raise DataError(f"{root / name} does not have its {size:,} bytes")


def _are_places(columns: dict[str, np.ndarray], sizes: list[int]) -> bool:
    """Whether each image lies inside a shard."""
    shards, offsets, lengths, sums = (columns[name] for name in COLUMNS)
    if any(column.ndim != 1 or column.dtype.kind not in "iu" for column in (shards, offsets, lengths, sums)):
        return False
    if shards.min() < 0 or shards.max() >= len(sizes) or offsets.min() < 0 or lengths.min() < 0:
        return False
    return bool((offsets.astype(np.int64) + lengths <= np.array(sizes)[shards]).all())


@dataclass(eq=False)
class Shards:
    """Encoded images in tar files, each read by one call; a checksum tells bytes that rotted."""

    root: Path
    names: tuple[str, ...]
    shape: tuple[int, int, int] | None
    shards: Int32[np.ndarray, "N"]
    offsets: Int64[np.ndarray, "N"]
    sizes: Int64[np.ndarray, "N"]
    sums: UInt32[np.ndarray, "N"]
    _open: dict[int, int] = field(default_factory=dict, init=False)

    def read(self, index: int) -> bytes:
        shard = int(self.shards[index])
        where = f"{self.names[shard]} at byte {self.offsets[index]}"
        try:
            content = os.pread(self._file(shard), int(self.sizes[index]), int(self.offsets[index]))
        except OSError as error:
            raise DecodeError(f"{where} cannot be read ({error.strerror})") from None
        if zlib.crc32(content) != self.sums[index]:
            raise DecodeError(f"{where}: the bytes are not those that were packed", next_step="copy the shard again")
        return content

    def expect(self, indices: Int64[np.ndarray, "M"]) -> None:
        """Readahead: the system fetches all these at once, while the first is decoded."""
        with contextlib.suppress(
            OSError, AttributeError
        ):  # of a file that is gone, `read` says so; macOS has no such call
            for index in indices.tolist():
                where = self._file(int(self.shards[index])), int(self.offsets[index]), int(self.sizes[index])
                os.posix_fadvise(*where, os.POSIX_FADV_WILLNEED)

    def _file(self, shard: int) -> int:
        """The shard's handle in this process; those used last stay open."""
        if shard in self._open:
            self._open[shard] = self._open.pop(shard)  # to the end of the row
        else:
            if len(self._open) >= _HANDLES:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[shard] = os.open(self.root / self.names[shard], os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        return self._open[shard]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}}  # a process opens its own files

    def __del__(self) -> None:
        for file in self.__dict__.get("_open", {}).values():  # nothing, where __init__ did not get that far
            os.close(file)
