"""Samples to batches: exact order at any worker count, stateless workers, 8-bit pixels until they are on the device."""

import contextlib
import itertools
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from vitrail import machine
from vitrail.batches.batch import Batch, groups
from vitrail.batches.draws import Draws
from vitrail.batches.order import Order
from vitrail.batches.workers import in_order
from vitrail.errors import ConfigError, DataError, DecodeError
from vitrail.images.decode import decode_region, naming
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Sample, Source
from vitrail.images.transforms import Augment

BAD_FILES, BAD_SHARE = 3, 0.001
"""So many files, or this share of the images, may be unreadable; with more, training stops."""
MOST_WORKERS = 512
CHUNK = 32
"""Images that a worker makes at a time."""


def train_batches(
    source: Source,
    *,
    preprocess: Preprocess,
    augment: Augment,
    seed: int,
    batch_size: int,
    start: int,
    stop: int,
    workers: int = 0,
    rank: int = 0,
    world: int = 1,
    pin: bool = False,
    skip_unreadable: bool = False,
) -> Generator[Batch, None, None]:
    """The positions start … stop of the stream in batches of `batch_size`, this rank's contiguous part of each.

    Images are uint8 at the model's size. A batch is a function of source, seed and position: the same from any
    start, with any number of workers and ranks. An image that cannot be read is left out and named in `dropped`;
    more than `most_unreadable` raise DataError, without `skip_unreadable`. `workers` -1 chooses.
    """
    order, repeats = Order(len(source), seed), augment.repeats

    def shares() -> Iterator[Numbers]:
        for first in range(start, stop, batch_size):
            size = min(batch_size, stop - first)
            low, high = (first + size * part // world for part in (rank, rank + 1))
            epochs, samples = order.between(low // repeats, (high - 1) // repeats + 1)
            copies = np.arange(low, high)
            at = copies // repeats - low // repeats
            yield Numbers(epochs[at] * repeats + copies % repeats, samples[at])

    maker = Maker(source, preprocess, augment, seed)
    budget = Budget(len(set(source.rows.tolist())), "training", skip_unreadable)
    for batch in _batches(maker, shares(), _workers(workers, maker, stop - start), pin):
        budget.spend(batch.dropped)
        yield batch


def eval_batches(
    source: Source, *, preprocess: Preprocess, batch_size: int, workers: int = 0, strict: bool = True
) -> Iterator[Batch]:
    """Every image once, in the source's order, as evaluation sees it; the last batch may be short.

    `workers` -1 chooses. An image that cannot be read raises DecodeError: what is scored is exactly what there is.
    Without `strict` it is left out and named in `dropped`.
    """
    if batch_size < 1:  # said here, at the call, and not at the first batch
        raise ConfigError(f"batch_size = {batch_size}", allowed="1 or more", next_step="try `batch=32`")
    starts = range(0, len(source), batch_size)
    shares = (Numbers(None, np.arange(first, min(first + batch_size, len(source)))) for first in starts)
    maker = Maker(source, preprocess, Augment(), 0)
    batches = _batches(maker, shares, _workers(workers, maker, len(source)), pin=False)
    return _stop_at_dropped(batches) if strict else batches


def _stop_at_dropped(batches: Iterator[Batch]) -> Iterator[Batch]:
    for batch in batches:
        for error in batch.dropped:
            raise error
        yield batch


def most_unreadable(images: int) -> int:
    """How many of so many images may be unreadable."""
    return max(BAD_FILES, int(BAD_SHARE * images))


class Budget:
    """The images of a set that could not be read, counted once each. More than `most_unreadable` raise DataError, unless
    all may be skipped.
    """

    def __init__(self, images: int, part: str, skip: bool = False) -> None:
        self._images, self._part, self._skip = images, part, skip
        self._bad = dict[str, DecodeError]()

    def spend(self, errors: Sequence[DecodeError]) -> None:
        self._bad.update((error.key, error) for error in errors)
        bad, most = len(self._bad), most_unreadable(self._images)
        if errors and (bad == self._images or (bad > most and not self._skip)):
            first = list(self._bad.values())[:5]
            raise DataError(
                f"{bad} of {self._images:,} {self._part} images cannot be read: "
                + "; ".join(error.found for error in first)
                + ("; …" if bad > 5 else ""),
                allowed=f"{most} of them; all but one with skip_unreadable",
                next_step="remove or replace them (`vitrail data check` lists them), or add --skip-unreadable",
            )


@dataclass(frozen=True, eq=False)
class Numbers:
    """Which samples, and with which draws; no epochs means as evaluation sees them."""

    epochs: Int64[np.ndarray, "B"] | None
    samples: Int64[np.ndarray, "B"]

    def pick(self, rows: slice | Int64[np.ndarray, "b"]) -> "Numbers":
        return Numbers(None if self.epochs is None else self.epochs[rows], self.samples[rows])


@dataclass(eq=False)
class Remarks:
    """Comes with images: the rows that cannot be read and why; all heights and widths where they differ."""

    failed: list[tuple[int, DecodeError]] = field(default_factory=list)
    shapes: Int64[np.ndarray, "B 2"] | None = None


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes images out of the numbers of samples: all a worker knows, and no state."""

    source: Source
    preprocess: Preprocess
    augment: Augment
    seed: int

    def __call__(
        self, task: Numbers, out: UInt8[np.ndarray, "M"] | None
    ) -> tuple[UInt8[np.ndarray, "B C H W"], "Remarks"]:
        """The images at the model's size, and for those that cannot be read (black here) their row and why."""
        images, remarks = self._read(task, out)
        if task.epochs is not None:
            images = self._augment(images, remarks.shapes, task)
        return images.numpy(), remarks

    def describe(self, task: Numbers) -> str:
        return f"{len(task.samples)} images, the first {self.source.keys[int(task.samples[0])]}"

    def _augment(
        self, images: UInt8[Tensor, "B C H W"], shapes: Int64[np.ndarray, "B 2"] | None, task: Numbers
    ) -> UInt8[Tensor, "B C H W"]:
        if shapes is None:
            return self.augment.batch(images, self._draws(task))
        for rows in groups(shapes):
            (height, width), at = shapes[rows[0]].tolist(), torch.from_numpy(rows)
            part = images[at, :, :height, :width]
            images[at, :, :height, :width] = self.augment.batch(part, self._draws(task.pick(rows)))
        return images

    def _draws(self, numbers: Numbers) -> Draws:
        assert numbers.epochs is not None
        return Draws(self.seed, numbers.epochs, numbers.samples)

    def _read(self, numbers: Numbers, out: UInt8[np.ndarray, "M"] | None) -> tuple[UInt8[Tensor, "B C H W"], "Remarks"]:
        draws = None if numbers.epochs is None or self.augment.crop_area is None else self._draws(numbers)
        as_read = self.source.shape == (*self.preprocess.size, self.preprocess.channels)
        if draws is None and as_read and (whole := self.source.in_memory) is not None:
            return torch.from_numpy(whole[numbers.samples].transpose(0, 3, 1, 2).copy()), Remarks()
        size = (len(numbers.samples), self.preprocess.channels, *self.preprocess.frame)
        out = np.empty(math.prod(size), np.uint8) if out is None else out[: math.prod(size)]
        images, remarks = torch.from_numpy(out.reshape(size)), Remarks()
        if self.preprocess.resize == "native":
            images.zero_()
            remarks.shapes = np.tile(np.array(self.preprocess.size, np.int64), (len(images), 1))
        self.source.expect(numbers.samples)
        for row, sample in enumerate(numbers.samples.tolist()):
            try:
                found = self.source[sample]
                image = self.preprocess.read(found) if draws is None else self._read_crop(found, draws.of(row))
            except DecodeError as error:
                images[row] = 0
                remarks.failed.append((row, error))
                continue
            images[row, :, : image.shape[1], : image.shape[2]] = image
            if remarks.shapes is not None:
                remarks.shapes[row] = image.shape[1:]
        return images, remarks

    def _read_crop(self, found: Sample, draw: Callable[[str], float]) -> UInt8[Tensor, "C H W"]:
        background = self.preprocess.background
        with naming(found.key):
            if self.preprocess.resize == "native":
                return self.augment.spatial(found.pixels(background), self.preprocess, draw)
            crop = decode_region(
                found.content,
                lambda height, width: self.augment.crop_box(height, width, draw),
                self.preprocess.size,
                key=found.key,
                background=background,
            )
            return self.augment.fit(crop, self.preprocess)


def _workers(asked: int, maker: Maker, images: int) -> int:
    """None for images that lie in memory and cost little, or too few to be worth a start; else all cores but one."""
    if asked > MOST_WORKERS:
        raise ConfigError(f"workers = {asked}", allowed=f"-1 (choose) or 0 to {MOST_WORKERS}")
    quick = maker.augment.cheap and maker.source.in_memory is not None
    if asked >= 0 and not quick:
        return asked
    if quick or images < 512:
        return 0
    return max(1, machine.cores() - 1)


def _batches(maker: Maker, shares: Iterator[Numbers], workers: int, pin: bool) -> Iterator[Batch]:
    if not workers:
        for numbers in shares:
            images, remarks = maker(numbers, None)
            yield _assemble(maker.source, numbers, torch.from_numpy(images), remarks, pin)
        return
    ahead, again = itertools.tee(shares)
    starts = ((numbers, low) for numbers in ahead for low in range(0, len(numbers.samples), CHUNK))
    parts = (numbers.pick(slice(low, low + CHUNK)) for numbers, low in starts)
    largest = CHUNK * maker.preprocess.channels * math.prod(maker.preprocess.frame)
    chunks = in_order(maker, parts, workers, largest=largest, name=maker.describe)
    with contextlib.closing(chunks):
        for numbers in again:
            yield _gather(maker, numbers, chunks, pin)


def _gather(maker: Maker, numbers: Numbers, chunks: Iterator[Any], pin: bool) -> Batch:
    """A batch out of the chunks that workers made of it."""
    size = (len(numbers.samples), maker.preprocess.channels, *maker.preprocess.frame)
    images, whole, row = torch.empty(size, dtype=torch.uint8, pin_memory=pin), Remarks(), 0
    shapes = []
    while row < len(numbers.samples):
        chunk, remarks = next(chunks)
        images[row : row + len(chunk)] = torch.from_numpy(chunk)
        whole.failed += [(row + at, error) for at, error in remarks.failed]
        shapes.append(remarks.shapes)
        row += len(chunk)
    whole.shapes = None if shapes[0] is None else np.concatenate(shapes)
    return _assemble(maker.source, numbers, images, whole, pin)


def _assemble(source: Source, numbers: Numbers, images: UInt8[Tensor, "B C H W"], remarks: Remarks, pin: bool) -> Batch:
    shapes = remarks.shapes
    if remarks.failed:
        kept = np.setdiff1d(np.arange(len(numbers.samples)), [row for row, _ in remarks.failed])
        images, numbers = images[torch.from_numpy(kept)], numbers.pick(kept)
        shapes = None if shapes is None else shapes[kept]
    targets = torch.from_numpy(source.labels[numbers.samples])
    keys = tuple(source.keys[sample] for sample in numbers.samples.tolist())
    if pin:
        images, targets = images.pin_memory(), targets.pin_memory()
    drawn = None if numbers.epochs is None else np.stack([numbers.epochs, numbers.samples], axis=1)
    return Batch(images, targets, keys, tuple(error for _, error in remarks.failed), shapes, drawn)
