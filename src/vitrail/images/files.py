"""Files: found under a folder, named, read. Other things than plain image files are counted and never opened."""

import contextlib
import errno
import hashlib
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
from vitrail.storage import open_regular

SUFFIXES = frozenset({
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff", ".ppm", ".pgm",
    ".pbm", ".pnm", ".mpo", ".npy",
})  # fmt: skip
"""Names that are listed as images. The decoder goes by a file's first bytes."""

LEADS_OUT = "links out of the folder"
Skipped = tuple[str, str]
"""The key of a file that was skipped, and why."""

LARGEST = 1 << 30
"""Bytes of the largest image file that is read."""
_HASHED = 1 << 30  # bytes that a fingerprint reads: about a second
_UNCOMPRESSED = (".bmp", ".dib", ".ppm", ".pgm", ".pbm", ".pnm", ".npy")
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
            with open_regular(path) as file:
                if size < 0 and (found := os.fstat(file.fileno()).st_size) > LARGEST:
                    raise DecodeError(f"a file of {found:,} bytes", key=key_of(str(path)), allowed=f"{LARGEST:,}")
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

    def digest(self, rows: Int64[np.ndarray, "M"]) -> bytes:
        """Over the files in formats whose size follows from the image's, so that another picture has the same size."""
        plain = [row for row in rows.tolist() if self.keys[row].lower().endswith(_UNCOMPRESSED)]
        if not plain or self.sizes[plain].sum() > _HASHED:
            return b""
        digest = hashlib.sha256()
        for row in plain:
            with contextlib.suppress(DecodeError):  # who decodes it names it
                digest.update(self.read(row))
        return digest.digest()

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
    """The image files under a folder with their sizes, and what was skipped."""

    images: list[tuple[str, int]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    """Those that are not followed yet."""

    def skip(self, reason: str, path: str) -> None:
        self.skipped.append((key_of(path), reason))

    def add(self, other: "Listing") -> None:
        """Takes what another folder holds, after what is here."""
        self.images += other.images
        self.skipped += other.skipped

    def files(self, root: Path) -> Files:
        """The images, whose keys are paths from `root`."""
        return Files(root, [key for key, _ in self.images], np.array([size for _, size in self.images], np.int64))

    @property
    def note(self) -> tuple[str, ...]:
        """ "12 files skipped: 9 .svg (a/1.svg, …), 1 broken links (b/x.png)", if any."""
        if not self.skipped:
            return ()
        first = {reason: key for key, reason in reversed(self.skipped)}
        counts = Counter(reason for _, reason in self.skipped).most_common()
        kinds = [f"{count:,} {kind} ({first[kind]}{', …' if count > 1 else ''})" for kind, count in counts]
        more = f", and {len(kinds) - 6} other kinds" if len(kinds) > 6 else ""
        return (f"{len(self.skipped):,} files skipped: {', '.join(kinds[:6])}{more}",)


class Walk:
    """Lists the images below one folder; each is listed once, at its own place, whatever links lead to it.

    A link to what is listed anyway, or was reached by another link, is skipped and named. A link out of the folder is
    followed only with `follow_links`. Pipes, sockets and devices are never opened.
    """

    def __init__(self, root: Path, *, follow_links: bool = False) -> None:
        self.root, self._real, self._free = root, os.path.realpath(root), follow_links
        self._known: set[str] = set()

    def claim(self, *folders: str) -> None:
        """Says which folders below the root are listed, now or later: no link to them, or into them, is followed."""
        self._known |= {os.path.realpath(os.path.join(self.root, folder)) for folder in folders}

    def refuse(self, target: str) -> str:
        """Why a link to the real path `target` is not followed; empty where it is."""
        if not os.path.exists(target):
            return "broken links"
        if not (self._free or inside(target, self._real)):
            return LEADS_OUT
        above = {target, *map(str, Path(target).parents)}
        below = os.path.isdir(target) and any(inside(known, target) for known in self._known)
        return "links to what is listed already" if below or above & self._known else ""

    def list(self, unders: Sequence[str] = ("",)) -> list[Listing]:
        """Every image below each `root`/`under`, at any depth, keyed by its path from the root; hidden ones are skipped."""
        self.claim(*unders)
        listed = [Listing() for _ in unders]
        for under, found in zip(unders, listed, strict=True):
            self._walk(under, found)
        for found in listed:
            self._follow(found)
            found.images.sort()
            found.skipped.sort()
        return listed

    def _follow(self, found: Listing) -> None:
        """Follows the links, each target once; links below a target are followed like any other."""
        found.links.sort(reverse=True)
        while found.links:
            path = found.links.pop()
            target = os.path.realpath(os.path.join(self.root, path))
            if reason := self.refuse(target):
                found.skip(reason, path)
                continue
            self._known.add(target)
            if os.path.isdir(target):
                self._walk(path, found)
            elif (reason := kind_of_file(target)) == "image":
                found.images.append((key_of(path), os.path.getsize(target)))
            else:
                found.skip(reason, path)

    def _walk(self, under: str, found: Listing) -> None:
        folders = [under]
        while folders:
            folder = folders.pop()
            for entry in _entries(os.path.join(self.root, folder)):
                path = os.path.join(folder, entry.name)
                if entry.name.startswith("."):
                    found.skip("hidden", path)
                elif entry.is_symlink():
                    found.links.append(path)
                elif entry.is_dir():
                    folders.append(path)
                elif not entry.is_file():
                    found.skip("pipes, sockets or devices", path)
                elif (reason := kind_of_file(entry.path)) == "image":
                    found.images.append((key_of(path), entry.stat().st_size))
                else:
                    found.skip(reason, path)


def inside(path: str, folder: str) -> bool:
    """Whether a real path is a real folder or lies in it."""
    return path == folder or path.startswith(folder.rstrip(os.sep) + os.sep)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(
            f"the folder {key_of(folder)} cannot be listed ({error.strerror})", next_step="check its permissions"
        ) from None


def kind_of_file(path: str) -> str:
    """ "image", or why a regular file is not listed as one, in the words of a note."""
    suffix = os.path.splitext(path)[1].lower()
    if not suffix:
        return "image" if _looks_like_image(path) else "without a suffix"
    return "image" if suffix in SUFFIXES else suffix if suffix.isprintable() else "with odd suffixes"


def _looks_like_image(path: str) -> bool:
    from vitrail.images.decode import sniff

    try:
        with open_regular(path) as file:
            return sniff(file.read(16)) is not None
    except OSError:
        return False
