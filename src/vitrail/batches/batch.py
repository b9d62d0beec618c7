"""Batch: images, their targets and their keys, as training and evaluation read them."""

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor

from vitrail.errors import DecodeError


@dataclass(frozen=True, eq=False)
class Batch:
    """Images, their targets and their keys."""

    images: Shaped[Tensor, "B C H W"]
    """uint8 as they come from the loader, float once normalised."""
    targets: Int[Tensor, "B"] | Float[Tensor, "B K"]
    keys: tuple[str, ...]
    dropped: tuple[DecodeError, ...] = ()
    """Why images are missing that should be here; training counts and lists them."""
    shapes: Int64[np.ndarray, "B 2"] | None = None
    """Height and width of each image where they differ: `images` are then frames with the image at the top left."""
    numbers: Int64[np.ndarray, "B 2"] | None = None
    """Epoch and sample of each training image: the key of its random numbers."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Batch":
        """The same on a device. With `non_blocking` and from pinned memory, a GPU copies while it computes the step before."""
        device = torch.device(device)
        if not non_blocking or device.type != "cuda" or self.images.is_cuda:
            return self._move(device, non_blocking)
        copying, computing = _copying(device), torch.cuda.current_stream(device)
        with torch.cuda.stream(copying):
            moved = self._move(device, non_blocking)
        computing.wait_stream(copying)
        for tensor in (moved.images, moved.targets):
            tensor.record_stream(computing)  # else its memory could be given to the next copy while it is read
        return moved

    def _move(self, device: torch.device, non_blocking: bool) -> "Batch":
        move = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("images", "targets")}
        return dataclasses.replace(self, **move)

    def split(self, size: int) -> list["Batch"]:
        """Parts of at most `size` images of one shape, in order, but shape by shape where there are several."""
        return [
            Batch(
                part.images[at : at + size],
                part.targets[at : at + size],
                part.keys[at : at + size],
                numbers=None if part.numbers is None else part.numbers[at : at + size],
            )
            for _, part in self.apart()
            for at in range(0, len(part), size)
        ]

    def apart(self) -> list[tuple[Int64[np.ndarray, "_"], "Batch"]]:
        """The images of each shape as a batch of their own, cut out of their frames, and which rows they are."""
        if self.shapes is None:
            return [(np.arange(len(self)), self)]
        found = []
        for rows in groups(self.shapes):
            (height, width), at = self.shapes[rows[0]].tolist(), torch.from_numpy(rows)
            images = self.images[at.to(self.images.device), :, :height, :width]
            keys = tuple(self.keys[row] for row in rows.tolist())
            numbers = None if self.numbers is None else self.numbers[rows]
            found.append((rows, Batch(images, self.targets[at.to(self.targets.device)], keys, numbers=numbers)))
        return found


@functools.cache
def _copying(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)


def groups(shapes: Int64[np.ndarray, "B 2"]) -> list[Int64[np.ndarray, "_"]]:
    """The rows of each shape, in the order of shapes."""
    _, which = np.unique(shapes, axis=0, return_inverse=True)
    return [np.flatnonzero(which.reshape(-1) == number) for number in range(which.max(initial=-1) + 1)]
