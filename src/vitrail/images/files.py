"""Files: found under a folder, named, read. What is not a plain image file is counted, never opened."""

import errno
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from vitrail.errors import DataError, DecodeError, StorageError

SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".webp",
        ".gif",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".mpo",
        ".npy",
    ]
)
"""Names that are listed as images. What a file really is, its first bytes say when it is decoded."""

_RETRIES = 3  # of a read that fails as networks and disks do for a moment; a missing file is missing
_ESCAPES = re.compile(r"\\(\\|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})")


def key_of(path: str) -> str:
    """A path as a key: what does not print (bytes that are not UTF-8, newlines, direction marks) is escaped."""
    if path.isprintable() and "\\" not in path:
        return path
    return "".join(letter if letter.isprintable() and letter != "\\" else _escape(letter) for letter in path)


def _escape(letter: str) -> str:
    code = ord(letter)
    if letter == "\\":
        return "\\\\"
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def path_of(key: str) -> str:
    """The path that a key stands for: the inverse of `key_of`."""
    return _ESCAPES.sub(lambda match: _unescape(match[1]), key) if "\\" in key else key


def _unescape(code: str) -> str:
    if code == "\\":
        return "\\"
    return chr(int(code[1:], 16) + (0xDC00 if code[0] == "x" else 0))


def read_bytes(path: str | Path, size: int = -1) -> bytes:
    """A file whole, or its first `size` bytes. Raises DecodeError that names it where it cannot be read."""
    for attempt in range(_RETRIES + 1):
        try:
            with open(path, "rb") as file:
                return file.read(size)
        except OSError as error:
            if error.errno not in (errno.EIO, errno.ESTALE) or attempt == _RETRIES:
                reason = error.strerror or type(error).__name__
                raise DecodeError(f"the file cannot be read ({reason})", key=key_of(str(path))) from None
            time.sleep(0.1 * 2**attempt)
    raise AssertionError


@dataclass(frozen=True, eq=False)
class Files:
    """Encoded images as files under one folder."""

    root: Path
    keys: Sequence[str]
    sizes: Int64[np.ndarray, "N"]

    def path(self, index: int) -> Path:
        return self.root / path_of(self.keys[index])

    def read(self, index: int) -> bytes:
        return self.head(index, -1)

    def head(self, index: int, size: int) -> bytes:
        """The first `size` bytes of a file."""
        try:
            return read_bytes(self.path(index), size)
        except DecodeError:
            if not self.root.is_dir():
                raise StorageError(
                    f"the images' folder {self.root} is gone", next_step="mount it again, then resume"
                ) from None
            raise


@dataclass
class Listing:
    """The image files under a folder, in the order of their keys, and what was passed over."""

    keys: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def note(self) -> tuple[str, ...]:
        """ "12 files skipped: 9 .svg, 3 .txt", if any."""
        if not self.skipped:
            return ()
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in self.skipped.most_common(6))
        more = ", …" if len(self.skipped) > 6 else ""
        return (f"{self.skipped.total():,} files skipped: {kinds}{more}",)


def list_images(root: Path, under: str = "") -> Listing:
    """Every image below `root`/`under`, at any depth, keyed by its path from `root`; hidden ones are skipped.

    Links are followed inside `root` only, each folder once. Pipes, sockets and devices are never opened.
    """
    listing, real = Listing(), os.path.realpath(root)
    found: list[tuple[str, int]] = []
    folders, seen = [under], set()
    while folders:
        folder = folders.pop()
        try:
            state = os.stat(os.path.join(root, folder))
            entries = list(os.scandir(os.path.join(root, folder)))
        except OSError as error:
            raise DataError(
                f"the folder {os.path.join(root, key_of(folder))} cannot be listed ({error.strerror})",
                next_step="check its permissions",
            ) from None
        if (state.st_dev, state.st_ino) in seen:
            listing.skipped["links to a folder already listed"] += 1
            continue
        seen.add((state.st_dev, state.st_ino))
        for entry in entries:
            kind = _kind(entry, real)
            path = os.path.join(folder, entry.name)
            if kind == "folder":
                folders.append(path)
            elif kind == "image":
                found.append((key_of(path), entry.stat().st_size))
            else:
                listing.skipped[kind] += 1
    found.sort()
    listing.keys, listing.sizes = [key for key, _ in found], [size for _, size in found]
    return listing


def _kind(entry: os.DirEntry[str], root: str) -> str:
    """ "folder", "image", or why it is neither, in the words of a note."""
    if entry.name.startswith("."):
        return "hidden"
    if entry.is_symlink():
        target = os.path.realpath(entry.path)
        if os.path.commonpath([target, root]) != root:
            return "links out of the folder"
        if not os.path.exists(target):
            return "broken links"
    if entry.is_dir():
        return "folder"
    if not entry.is_file():
        return "pipes, sockets or devices"
    suffix = os.path.splitext(entry.name)[1].lower()
    if not suffix:
        return "image" if _looks_like_image(entry.path) else "without a suffix"
    return "image" if suffix in SUFFIXES else suffix if suffix.isprintable() else "with odd suffixes"


def _looks_like_image(path: str) -> bool:
    from vitrail.images.decode import sniff

    try:
        with open(path, "rb") as file:
            return sniff(file.read(16)) is not None
    except OSError:  # it is listed as what it is when it is opened
        return False
