"""Files and folders that are whole or absent, whatever stops the program: the one place that writes aside, syncs and renames.

    write_whole(path, content)        one file; a reader finds the old one or the new one
    with whole_folder(path) as new:   a folder to fill; it takes the name `path` when the block ends

Content is written under a hidden name with `.part`, made durable (fsync), then renamed; the rename is made durable too. A leftover
`.part` of a killed program is removed. Nothing is written through a link: a new name is opened with O_EXCL and O_NOFOLLOW,
and a rename replaces a link itself. Two processes that write one path at once need a lock.
"""

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Generator
from io import BufferedReader
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from vitrail.errors import StorageError

ADVICE = "check the folder, its permissions and the free space; what was there before is unchanged"
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_NO_FILES = ((stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket"))

Content = bytes | memoryview | str | Callable[[IO[bytes]], object]
"""Bytes, text (stored as UTF-8), or a function that writes into the open file."""


def write_whole(path: str | Path, content: Content, *, next_step: str = ADVICE) -> None:
    """Writes the file, with its folder where that is missing. Raises StorageError with `next_step`; the old file stays."""
    path = Path(path)
    if not path.name:
        raise StorageError(f"{str(path)!r} names no file", next_step="name one")
    aside = path.with_name(f".{path.name}.part")
    with storage_errors(path, next_step):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.unlink(missing_ok=True)
        try:
            _write_new(aside, content)
            os.replace(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to report
                aside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def _write_new(path: Path, content: Content) -> None:
    with open(os.open(path, _NEW, 0o666), "wb") as file:
        if callable(content):
            content(file)
        else:
            file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def whole_folder(path: str | Path, *, aside: Path | None = None, next_step: str = ADVICE) -> Generator[Path]:
    """A new folder to fill, named `aside` until it is whole; every file in it is synced before it becomes `path`.

    A folder that has this name already is replaced. Raises StorageError; then, and when the block raises, nothing is left.
    """
    path = Path(path)
    aside = aside or path.with_name(f".{path.name}.part")
    with storage_errors(path, next_step):
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            remove(aside)
            aside.mkdir()
            yield aside
            _sync_all(aside)
            with _moved_away(path):
                aside.rename(path)
            sync_folder(path.parent)
        except BaseException:
            shutil.rmtree(aside, ignore_errors=True)
            raise


def _sync_all(folder: Path) -> None:
    for inner, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(inner, name))
        sync_folder(Path(inner))


@contextlib.contextmanager
def _moved_away(path: Path) -> Generator[None]:
    """Frees the name `path`; what had it is removed at the end."""
    old = path.with_name(f".{path.name}.old")
    if path.exists() or path.is_symlink():
        remove(old)
        path.rename(old)
    yield
    remove(old)


def open_regular(path: str | Path, *, follow_links: bool = True) -> BufferedReader:
    """A file open for reading. OSError at once for a folder, pipe, socket or device: reading one could wait for ever."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags if follow_links else flags | getattr(os, "O_NOFOLLOW", 0))
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        kind = next((name for test, name in _NO_FILES if test(mode)), "device")
        raise OSError(errno.EINVAL, f"it is a {kind}, not a file", str(path))
    return os.fdopen(handle, "rb")


def read_regular(path: str | Path, limit: int) -> bytes:
    """A regular file whole. OSError as `open_regular`, and for more than `limit` bytes, of which none is read."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EINVAL, f"it has {size:,} bytes, of {limit:,} allowed", str(path))
        return file.read(size or min(limit, 1 << 20))  # the system's own files claim no size


@contextlib.contextmanager
def hold_lock(path: Path, *, wait: bool = False) -> Generator[bool]:
    """Holds the lock file `path`; yields False where another process holds it, unless told to `wait` for it.

    The lock ends with the process, however that ends. Raises StorageError where the file cannot be made, or is a link.
    """
    with storage_errors(path):
        if path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link")
        lock = FileLock(path, timeout=-1 if wait else 0)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
    try:
        yield True
    finally:
        lock.release()


def remove(path: Path) -> None:
    """Removes a file, a folder with all it holds, or a link (never what the link names). Nothing there is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Makes the bytes of a file durable."""
    with open(path, "r+b") as file:  # Windows syncs only what may be written
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable: without it a rename can be lost when the power fails. Windows has no such call."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def storage_errors(path: str | Path, next_step: str = ADVICE) -> Generator[None]:
    """Inside, an OSError becomes a StorageError: `path could not be written (reason); next_step`."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{path} could not be written ({error.strerror or error})", next_step=next_step) from error
