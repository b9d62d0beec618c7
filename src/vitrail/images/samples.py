"""Source: the one form of all data, samples in a fixed order, each with its bytes, its label and its key."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from vitrail.images.decode import WHITE, Background, decode, naming


@dataclass(frozen=True, eq=False)
class Sample:
    """One image as it is stored, encoded or as uint8 H W C; its label; and the name by which messages call it."""

    content: bytes | np.ndarray
    label: int | np.ndarray
    """A class index, -1 where there is none, or a float32 vector of K where an image can have several labels."""
    key: str

    def pixels(self, background: Background = WHITE) -> UInt8[np.ndarray, "H W C"]:
        """The image decoded and upright, transparent pixels laid on `background`. Raises DecodeError that names it."""
        return decode(self.content, key=self.key, background=background)


@runtime_checkable
class Contents(Protocol):
    """Where the bytes are. One small class for each kind of storage; picklable, so that workers can open their own.

    Some have more: `shape` (H, W, C) where all images share it; `head(index, size)`, a beginning that costs less than the
    whole; `expect(indices)`, which reads ahead; `digest(rows)` over what is stored, where sizes do not tell a change.
    """

    def read(self, index: int) -> bytes | np.ndarray: ...

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        """Bytes of each sample as stored."""
        ...


Labels = Int64[np.ndarray, "N"] | Float32[np.ndarray, "N K"]


@dataclass(frozen=True, eq=False)
class Source:
    """Samples in a fixed order. Reading one never depends on another."""

    name: str
    classes: tuple[str, ...]
    labels: Labels
    """Class indices (-1: unlabelled); 0 and 1 for each class where an image can have several; or a number to predict."""
    keys: Sequence[str]
    contents: Contents
    rows: Int64[np.ndarray, "N"]
    """Which of the contents these samples are."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left out or is remarkable ("12 files skipped: .svg")."""
    skipped: tuple[tuple[str, str], ...] = ()
    """Each file that was skipped, by its key, and why."""
    numeric: bool = False
    """Whether the labels are numbers, N × 1, not classes; `classes` is then the number's name."""

    def __post_init__(self) -> None:
        assert len(self.labels) == len(self.keys) == len(self.rows)

    def __repr__(self) -> str:
        return f"Source({self.name!r}: {len(self):,} images, {len(self.classes):,} classes)"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        label, key = self.labels[index], self.keys[index]
        with naming(key):
            content = self.contents.read(int(self.rows[index]))
        return Sample(content, label if self.labels.ndim == 2 else int(label), key)

    def pixels(self, index: int, background: Background = WHITE) -> UInt8[np.ndarray, "H W C"]:
        """One image decoded and upright, grey (C = 1), RGB, or of as many channels as it has. Raises DecodeError."""
        return self[index].pixels(background)

    def head(self, index: int, size: int) -> bytes | np.ndarray:
        """The first `size` bytes of a sample as it is stored, or more; an image in memory whole."""
        row, head = int(self.rows[index]), getattr(self.contents, "head", None)
        with naming(self.keys[index]):
            return head(row, size) if head else self.contents.read(row)

    def picture(self, index: int) -> UInt8[np.ndarray, "H W c"]:
        """One image to show: grey or RGB; the first three of more channels. Raises DecodeError."""
        image = self.pixels(index)
        shown = {1: 1, 2: 1}.get(image.shape[2], 3)
        return image if image.shape[2] == shown else np.ascontiguousarray(image[..., :shown])

    def expect(self, indices: Int64[np.ndarray, "M"]) -> None:
        """Says that these samples will be read next, to storage that can make use of it."""
        if expect := getattr(self.contents, "expect", None):
            expect(self.rows[indices])

    def subset(self, indices: Sequence[int] | Int64[np.ndarray, "M"]) -> "Source":
        """These samples in this order, with the same classes."""
        indices = np.asarray(indices, dtype=np.int64)
        keys = self.keys[indices] if isinstance(self.keys, Numbered) else [self.keys[index] for index in indices]
        return replace(self, labels=self.labels[indices], keys=keys, rows=self.rows[indices])

    def thin(self, most: int) -> "Source":
        """At most so many of the samples, evenly chosen."""
        return self if len(self) <= most else self.subset(np.linspace(0, len(self) - 1, most, dtype=np.int64))

    @property
    def multi_label(self) -> bool:
        return self.labels.ndim == 2 and not self.numeric

    @cached_property
    def in_memory(self) -> UInt8[np.ndarray, "N H W C"] | None:
        """All images at once, where they lie in memory as one array."""
        if not isinstance(self.contents, Arrays):
            return None
        array, rows = self.contents.array, self.rows
        return array if len(rows) == len(array) and (rows == np.arange(len(array))).all() else array[rows]

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """H, W, C where all images share them and that is known without opening files."""
        return getattr(self.contents, "shape", None)

    @property
    def counts(self) -> Int64[np.ndarray, "K"]:
        """Images of each class; of numbers, of that number."""
        if self.numeric:
            return np.array([len(self)])
        if self.multi_label:
            return self.labels.sum(0).astype(np.int64)
        return np.bincount(self.labels[self.labels >= 0], minlength=len(self.classes))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over classes, keys, sizes and labels: it tells data that changed.

        Pixels count too where equal sizes say nothing: in memory, in Parquet, in formats that do not compress.
        """
        digest = hashlib.sha256(repr((self.classes, self.labels.shape)).encode())
        for key in self.keys:
            digest.update(key.encode() + b"\0")
        digest.update(np.ascontiguousarray(self.contents.sizes[self.rows]).tobytes())
        digest.update(np.ascontiguousarray(self.labels).tobytes())
        if self.in_memory is not None:
            digest.update(np.ascontiguousarray(self.in_memory).tobytes())
        elif stored := getattr(self.contents, "digest", None):
            digest.update(stored(self.rows))
        return digest.hexdigest()

    def label_text(self, index: int) -> str:
        """The label of an image in words; empty where there is none."""
        if self.numeric:
            return f"{self.labels[index, 0]:.6g}"
        if self.multi_label:
            return " + ".join(name for name, on in zip(self.classes, self.labels[index], strict=True) if on)
        return self.classes[int(self.labels[index])] if self.labels[index] >= 0 else ""


@dataclass(frozen=True, eq=False)
class Splits:
    """Training data and held-out data. Training evaluates on `val` where there is one, else on `test`."""

    train: Source
    test: Source
    how: str
    """A sentence that says where the split came from."""
    val: Source | None = None
    drawn: bool = False
    """Whether the split was drawn here: nothing of the data's own says which image is held out."""
    published: bool = False
    """Whether it is a benchmark's own split, kept as it is for the sake of comparison."""
    trained_on: int = 0
    """Test images that the starting weights were trained on: all of them or none, the rest being left out."""

    @property
    def caveat(self) -> str:
        """Why a score on the test images says nothing; empty where it does."""
        what = f"all {self.trained_on:,} test images were trained on by the starting weights"
        return f"{what}: the score says nothing about new images" if self.trained_on else ""

    @property
    def parts(self) -> dict[str, Source]:
        """The parts that are there, by name: train, val, test."""
        parts = {"train": self.train, "val": self.val, "test": self.test}
        return {name: source for name, source in parts.items() if source is not None}

    @property
    def skipped(self) -> tuple[tuple[str, str], ...]:
        """Each file of the folder that was skipped, by its key, and why."""
        return tuple(dict.fromkeys(one for source in self.parts.values() for one in source.skipped))


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images that lie in memory as one array."""

    array: UInt8[np.ndarray, "N H W C"]

    @property
    def shape(self) -> tuple[int, int, int]:
        height, width, channels = self.array.shape[1:]
        return height, width, channels

    def read(self, index: int) -> np.ndarray:
        return self.array[index]

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return np.full(len(self.array), self.array[:1].nbytes, np.int64)


@dataclass(frozen=True, eq=False)
class Numbered(Sequence[str]):
    """Keys such as "digits/00042", made when they are asked for: a list of a million would go to every worker."""

    prefix: str
    numbers: Int64[np.ndarray, "N"]

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice | np.ndarray):
            return Numbered(self.prefix, self.numbers[index])
        return f"{self.prefix}/{self.numbers[index]:05d}"


def from_arrays(
    name: str, images: UInt8[np.ndarray, "N H W C"], labels: Int64[np.ndarray, "N"], classes: tuple[str, ...]
) -> Source:
    """A source of images in memory, keyed by number."""
    rows = np.arange(len(images))
    return Source(name, classes, labels, Numbered(name, rows), Arrays(images), rows)
