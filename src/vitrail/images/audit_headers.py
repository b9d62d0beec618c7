"""The quick part of an audit: exact copies and unreadable headers, from a few kilobytes of every file, within a time.

Held-out images come first, then training images of a size that a held-out one has: if the time ends, what a leak needs was
checked before the rest.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from vitrail.errors import DecodeError
from vitrail.images.decode import check_header
from vitrail.images.exact_duplicates import same_bytes
from vitrail.images.findings import Member
from vitrail.images.samples import Source

HEAD = 4096
"""Bytes of a file that are read of every image; a file is read whole where another begins as it does, at equal size."""
_TICK = 256  # images between two words about progress


@dataclass(eq=False)
class Quick:
    """The images of all parts in one row, and what a look at their first bytes told."""

    parts: dict[str, Source]
    seconds: float = math.inf
    looked: int = 0
    unreadable: list[tuple[Member, str]] = field(default_factory=list)
    copies: list[tuple[Member, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._starts = np.cumsum([0, *(len(source) for source in self.parts.values())])
        self._sizes = np.concatenate([source.contents.sizes[source.rows] for source in self.parts.values()])
        self._marks = np.zeros(len(self._sizes), np.uint64)
        self._doubtful: list[int] = []
        self._ends = time.monotonic() + self.seconds
        self._late = False

    def run(self, tick: Callable[[int], object] = lambda done: None) -> "Quick":
        """Looks as far as the time goes: at beginnings, then at whole files that begin alike, then at odd headers."""
        for done, index in enumerate(self._in_time(self._order()), 1):
            self._look(index)
            self.looked = done
            if done % _TICK == 0:
                tick(done)
        tick(self.looked)
        groups = [group for alike in self._alike() for group in same_bytes(self._read_in_time, alike)]
        self.copies = [tuple(map(self.member, group)) for group in sorted(groups)]
        for index in self._in_time(np.array(self._doubtful, np.int64)):
            self._examine(index)
        self.unreadable.sort(key=lambda lost: (lost[0].part != "train", lost[0].index))
        return self

    @property
    def cut(self) -> str:
        """A sentence on what was not checked in time."""
        if not self._late:
            return ""
        whole = "" if self.looked == len(self._sizes) else f" {self.looked:,} of {len(self._sizes):,} images"
        return f"checked{whole} in {self.seconds:g} seconds, not completely; `vitrail data check` checks everything"

    def member(self, index: int) -> Member:
        return member_of(*self._place(index))

    def _order(self) -> Int64[np.ndarray, "N"]:
        train = np.arange(len(self._sizes)) < self._starts[1]
        shared = train & np.isin(self._sizes, self._sizes[~train])
        return np.concatenate([np.flatnonzero(mask) for mask in (~train, shared, train & ~shared)])

    def _in_time(self, indices: Int64[np.ndarray, "M"]) -> Iterator[int]:
        for index in indices.tolist():
            if time.monotonic() > self._ends:
                self._late = True
                return
            yield index

    def _place(self, index: int) -> tuple[str, Source, int]:
        number = int(np.searchsorted(self._starts, index, side="right")) - 1
        part, source = list(self.parts.items())[number]
        return part, source, int(index - self._starts[number])

    def _look(self, index: int) -> None:
        _, source, at = self._place(index)
        try:
            head = source.head(at, HEAD)
        except DecodeError as error:
            self.unreadable.append((self.member(index), error.found))
            return
        if isinstance(head, bytes):
            try:
                check_header(head, key=source.keys[at])
            except DecodeError:  # of a part of the file: only the whole can say
                self._doubtful.append(index)
        digest = hashlib.blake2b(head if isinstance(head, bytes) else head.tobytes(), digest_size=8)
        digest.update(int(self._sizes[index]).to_bytes(8, "little", signed=True))
        self._marks[index] = int.from_bytes(digest.digest(), "little") or 1

    def _alike(self) -> Iterator[Int64[np.ndarray, "M"]]:
        """Images that begin alike and have one size."""
        order = np.argsort(self._marks, kind="stable")
        marks = self._marks[order]
        for group in np.split(order, np.flatnonzero(np.diff(marks)) + 1):
            if len(group) > 1 and self._marks[group[0]]:
                yield group

    def _read_in_time(self, index: int) -> bytes | np.ndarray:
        if time.monotonic() > self._ends:
            self._late = True
            raise DecodeError("no time")
        _, source, at = self._place(index)
        return source[at].content

    def _examine(self, index: int) -> None:
        _, source, at = self._place(index)
        try:
            content = source[at].content
            assert isinstance(content, bytes)
            check_header(content, key=source.keys[at])
        except DecodeError as error:
            self.unreadable.append((self.member(index), error.found))


def member_of(part: str, source: Source, index: int) -> Member:
    """An image by its place."""
    return Member(part, index, source.keys[index], source.label_text(index))
