"""Samples to batches: exact order at any worker count, stateless workers, 8-bit pixels until they are on the device."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped, UInt8
from torch import Tensor

from vitrail.batches.draws import Draws
from vitrail.batches.order import Order
from vitrail.images.decode import decode, decode_region
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source
from vitrail.images.transforms import Augment


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, what they show, and what they are called."""

    images: Shaped[Tensor, "B C H W"]
    """uint8 as they come from the loader, float once normalised."""
    targets: Int[Tensor, "B"] | Float[Tensor, "B K"]
    keys: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same on a device; a copy from pinned memory with `non_blocking` overlaps with computing."""
        move = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("images", "targets")}
        return dataclasses.replace(self, **move)

    def split(self, size: int) -> list["Batch"]:
        """Parts of at most `size` images, in order."""
        return [
            Batch(self.images[at : at + size], self.targets[at : at + size], self.keys[at : at + size])
            for at in range(0, len(self), size)
        ]

    def pin(self) -> "Batch":
        return dataclasses.replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


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
) -> Iterator[Batch]:
    """The positions start … stop of the stream in batches of `batch_size`, the rank's contiguous share of each.

    Images are uint8 at the model's size. What a batch holds depends on nothing but source, seed and position.
    """
    order = Order(len(source), seed)
    maker = Maker(source, preprocess, augment, seed)
    for first in range(start, stop, batch_size):
        size = min(batch_size, stop - first)
        low, high = (first + size * part // world for part in (rank, rank + 1))
        epochs, samples = order.at(np.arange(low, high))
        batch = maker.train(epochs, samples)
        yield batch.pin() if pin else batch


def eval_batches(source: Source, *, preprocess: Preprocess, batch_size: int, workers: int = 0) -> Iterator[Batch]:
    """Every image once, in the source's order, as evaluation sees it; the last batch may be short."""
    maker = Maker(source, preprocess, Augment(), 0)
    for first in range(0, len(source), batch_size):
        yield maker.eval(np.arange(first, min(first + batch_size, len(source))))


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes a batch out of the numbers of its samples: all a worker knows, and no state."""

    source: Source
    preprocess: Preprocess
    augment: Augment
    seed: int

    def train(self, epochs: Int64[np.ndarray, "B"], samples: Int64[np.ndarray, "B"]) -> Batch:
        draws = Draws(self.seed, epochs, samples)
        if self._whole and self.augment.crop_area is None:
            images = self._gather(samples)
        else:
            images = torch.stack([self._crop(int(sample), draws.of(row)) for row, sample in enumerate(samples)])
        return self._batch(self.augment.batch(images, draws), samples)

    def eval(self, samples: Int64[np.ndarray, "B"]) -> Batch:
        if self._whole:
            return self._batch(self._gather(samples), samples)
        return self._batch(torch.stack([self._resized(int(sample)) for sample in samples]), samples)

    @property
    def _whole(self) -> bool:
        """Whether the images lie in memory just as the model reads them."""
        return self.source.shape == (*self.preprocess.size, self.preprocess.channels)

    def _gather(self, samples: Int64[np.ndarray, "B"]) -> UInt8[Tensor, "B C H W"]:
        assert self.source.in_memory is not None
        return torch.from_numpy(self.source.in_memory[samples]).permute(0, 3, 1, 2).contiguous()

    def _pixels(self, sample: int) -> UInt8[np.ndarray, "H W C"]:
        found = self.source[sample]
        if isinstance(found.content, np.ndarray):
            return found.content
        return decode(found.content, key=found.key, background=self.preprocess.background)

    def _resized(self, sample: int) -> UInt8[Tensor, "C H W"]:
        return self.preprocess.resize_image(self._pixels(sample))

    def _crop(self, sample: int, draw) -> UInt8[Tensor, "C H W"]:
        content = self.source[sample].content
        if isinstance(content, np.ndarray) or self.augment.crop_area is None:
            return self.augment.spatial(self._pixels(sample), self.preprocess, draw)
        crop = decode_region(
            content,
            lambda height, width: self.augment.crop_box(height, width, draw),
            self.preprocess.size,
            self.augment.interpolation or self.preprocess.interpolation,
            key=self.source.keys[sample],
            background=self.preprocess.background,
        )
        return self.preprocess.resize_image(crop)

    def _batch(self, images: UInt8[Tensor, "B C H W"], samples: Int64[np.ndarray, "B"]) -> Batch:
        targets = torch.from_numpy(np.ascontiguousarray(self.source.labels[samples]))
        return Batch(images, targets, tuple(self.source.keys[int(sample)] for sample in samples))
