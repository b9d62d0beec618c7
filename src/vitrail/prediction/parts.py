"""Answers about many images as Parquet files, each whole or absent. A killed job is started again and goes on.

    labels/
      _job.json                      the model, preprocessing, images and options
      part-00000-of-00012.parquet    the rows of a fixed range of images, in order
      …
      _done.json                     written when every image is there once

A part depends on the job alone: its bytes are the same whichever process makes it (on one machine and thread count).
Processes take parts in turn and send no messages. Readers of Parquet skip names that begin with `_` or `.`.
"""

import contextlib
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from vitrail import config as configs
from vitrail.errors import ConfigError, RunInUse, StorageError
from vitrail.images.arrow import arrow, plain_errors, read_table
from vitrail.images.preprocess import Preprocess
from vitrail.storage import hold_lock, open_regular, storage_errors, write_whole

JOB, DONE = "_job.json", "_done.json"
AGAIN = "finished parts are kept: make room or repair the folder, and start the same command again"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that decides the rows. A folder, or a file, holds the rows of one job."""

    kind: str
    """"predictions" or "features"."""
    model: str
    """sha256 over the model's tensors."""
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    options: str = ""
    """Other options: how many answers, which layer."""
    device: str
    precision: str
    batch: int
    """Images through the model at once: the last bits follow from it."""
    part: int
    """Images of a part."""
    images: tuple[tuple[str, int, str], ...]
    """Split, number and fingerprint of the images."""

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(configs.to_dict(self), sort_keys=True).encode()).hexdigest()

    @property
    def parts(self) -> tuple["Part", ...]:
        """Every image in one part; no part crosses from one split to the next."""
        spans = [
            (split, start, min(start + self.part, count))
            for split, count, _ in self.images
            for start in range(0, count, self.part)
        ]
        return tuple(Part(index, len(spans), *span) for index, span in enumerate(spans))


@dataclass(frozen=True)
class Part:
    """A range of the images of one split."""

    index: int
    of: int
    split: str
    start: int
    stop: int

    @property
    def name(self) -> str:
        return f"part-{self.index:05d}-of-{self.of:05d}.parquet"

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Done:
    """Counts over all parts."""

    images: int
    unreadable: int
    """Their rows say why, in the column `error`."""
    parts: int


class Parts:
    """The folder of one job."""

    def __init__(self, folder: Path, job: Job) -> None:
        self.folder, self.job = folder, job
        self.header = {"job": job.digest}
        """Stands in every part, and in the file they are joined to."""

    @contextlib.contextmanager
    def hold(self, rank: int) -> Generator[None]:
        """The folder, made and checked to be this job's; at most one process has the number `rank`. Raises ConfigError."""
        with storage_errors(self.folder, AGAIN):
            self.folder.mkdir(parents=True, exist_ok=True)
        with hold_lock(self.folder / f".process-{rank}") as free:
            with hold_lock(self.folder / ".lock", wait=True):
                self._enter()
            if not free:
                raise RunInUse(
                    f"another process is at work in {self.folder}", next_step="wait for it, or choose another `out`"
                )
            yield

    def _enter(self) -> None:
        file = self.folder / JOB
        if not file.exists():
            if any(self.folder.glob("[!.]*")):
                raise ConfigError(
                    f"{self.folder} holds other files", next_step="choose another `out`: a new or an empty folder"
                )
            self._write(file, json.dumps(configs.to_dict(self.job), ensure_ascii=False, indent=1).encode())
        check_same(configs.read_json(Job, file), self.job, self.folder)

    def mine(self, rank: int, size: int, say: Callable[[str], object]) -> list[Part]:
        """The parts that process `rank` of `size` still has to make, in order. A damaged one is named and made again."""
        return [part for part in self.job.parts if part.index % size == rank and not self._whole(part, say)]

    def _whole(self, part: Part, say: Callable[[str], object]) -> bool:
        path = self.folder / part.name
        if not path.exists():
            return False
        try:
            table = read_table(path)
            header = table.schema.metadata or {}
            mine = header.get(b"part", part.name.encode()) == part.name.encode()  # 0.1.0 wrote no name
            if mine and len(table) == len(part) and header.get(b"job") == self.job.digest.encode():
                return True
        except (OSError, ValueError):
            pass
        say(f"{path} is damaged: made again")
        return False

    def commit(self, part: Part, table: Any) -> None:
        """Writes the rows of a part (a pyarrow table): whole or not at all."""
        pa, parquet = arrow()
        sink = pa.BufferOutputStream()
        header = {**(table.schema.metadata or {}), **self.header, "part": part.name}
        parquet.write_table(table.replace_schema_metadata(header), sink, write_page_checksum=True)
        self._write(self.folder / part.name, sink.getvalue().to_pybytes())

    def finish(self, keys: Mapping[str, Sequence[str]]) -> Done | None:
        """Reads every part, each byte against its checksum, and counts; None while some are missing.

        `keys` are those of the images of each split. Raises StorageError where a part is damaged or holds other rows.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(hold_lock(self.folder / ".lock", wait=True))
            except StorageError:
                if self.folder.is_dir():
                    raise
                return None  # another process has joined the parts already
            if any(not (self.folder / part.name).exists() for part in self.job.parts):
                return None
            counts = [self._count(part, keys[part.split][part.start : part.stop]) for part in self.job.parts]
            done = Done(sum(len(part) for part in self.job.parts), sum(counts), len(counts))
            self._write(self.folder / DONE, json.dumps(configs.to_dict(done), indent=1).encode())
            for left in itertools.chain(self.folder.glob(".*.part"), self.folder.glob(".process-*")):
                left.unlink(missing_ok=True)
        return done

    def _count(self, part: Part, keys: Sequence[str]) -> int:
        """The unreadable images of a part whose rows are those of `keys`."""
        path, why = self.folder / part.name, "it does not hold the rows it should"
        try:
            table = read_table(path)
            right = (table.schema.metadata or {}).get(b"job") == self.job.digest.encode()
            if right and table["key"].to_pylist() == list(keys):
                return len(table) - table["error"].null_count
        except (OSError, ValueError, KeyError) as error:
            why = str(error).splitlines()[0]
        with contextlib.suppress(FileNotFoundError):
            path.rename(path.with_name(f".damaged-{path.name}.part"))
        raise StorageError(f"{path} is damaged ({why}) and was put aside", next_step="start the same command again")

    def _write(self, path: Path, content: bytes) -> None:
        write_whole(path, content, next_step=AGAIN)

    def join(self, file: Path) -> Done:
        """One Parquet file of all parts, a row group each, where it is not there yet; the folder goes."""
        try:
            self.folder.mkdir(exist_ok=True)
            with hold_lock(self.folder / ".lock", wait=True):
                if not file.exists():
                    self._join(file)
                shutil.rmtree(self.folder, ignore_errors=True)
        except StorageError:
            if not file.exists():
                raise  # else another process joined them meanwhile, and took the folder away
        return _count_rows(file)

    def _join(self, file: Path) -> None:
        _, parquet = arrow()
        paths = [self.folder / part.name for part in self.job.parts]

        def write(sink: IO[bytes]) -> None:
            schema = parquet.read_schema(paths[0])
            schema = schema.with_metadata({k: v for k, v in (schema.metadata or {}).items() if k != b"part"})
            with parquet.ParquetWriter(sink, schema, write_page_checksum=True) as writer:
                for path in paths:
                    writer.write_table(read_table(path))

        write_whole(file, write, next_step=AGAIN)


def describe(done: Done | None, out: Path) -> str:
    """A sentence on what a job came to, or that this process has done its share."""
    if done is None:
        return f"this process has made its parts of {out}; others are still to come"
    why = f"; {done.unreadable:,} of them could not be read, and their rows say why" if done.unreadable else ""
    return f"{done.images:,} images, each once: {out}{why}"


def check_same(before: Job, now: Job, where: Path) -> None:
    """Raises ConfigError that names what differs, where a folder or a file holds another job's rows."""
    old, new = configs.to_dict(before), configs.to_dict(now)
    if differ := [name for name in new if old[name] != new[name]]:
        shown = ", ".join(f"{name} {_short(old[name])}, not {_short(new[name])}" for name in differ)
        raise ConfigError(
            f"{where} holds the rows of another job: {shown}",
            next_step="choose another `out`, or ask as it was asked before",
        )


def check_file(file: Path, job: Job) -> None:
    """Raises ConfigError unless a Parquet file holds the joined rows of this job."""
    try:
        with plain_errors(), open_regular(file) as opened:
            header = arrow()[1].read_metadata(opened).metadata or {}
    except (OSError, ValueError):
        header = {}
    if header.get(b"job") != job.digest.encode():
        raise ConfigError(
            f"{file} is there already, of another model, other images or other options",
            next_step="choose another `out`, or remove it",
        )


def _count_rows(file: Path) -> Done:
    """Counts of a finished job's file."""
    with plain_errors(), open_regular(file) as opened:
        found = arrow()[1].read_metadata(opened)
    # no row is read: a thread of pyarrow that still holds a buffer when Python ends would abort the command
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    columns = [group.column(k) for group in groups for k in range(group.num_columns)]
    empty = sum(column.statistics.null_count for column in columns if column.path_in_schema == "error")
    return Done(found.num_rows, found.num_rows - empty, len(groups))


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:28]} … {text[-28:]}"
