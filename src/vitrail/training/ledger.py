"""Proof of the training order: every sample once an epoch, in one order, whatever kills, workers and ranks there were.

The ledger is one number, the sum over all samples so far of a hash of (step, key), modulo 2⁶⁴. A sample missed, taken twice or
in another step changes it; the shares of ranks add up. It stands in every line of the log, and `training.verify` computes it
again from nothing but the data and the seed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from vitrail.batches.order import Order
from vitrail.processes.world import World
from vitrail.reports import journal

MASK = (1 << 64) - 1


class Ledger:
    """The sum of this rank's samples; the sums of all ranks are the run's."""

    def __init__(self, total: int = 0) -> None:
        self._total = total

    def add(self, step: int, keys: Sequence[str]) -> None:
        """Counts the samples of one step in."""
        self._total = (self._total + sum(entry(step, key) for key in keys)) & MASK

    def value(self, world: World) -> int:
        """The run's number; every rank must ask."""
        if world.alone:
            return self._total
        halves = torch.tensor([self._total >> 32, self._total & 0xFFFFFFFF])
        high, low = (int(half) for half in world.sum(halves))
        return ((high << 32) + low) & MASK


def entry(step: int, key: str) -> int:
    """64 bits of blake2b over the step and the key."""
    text = f"{step}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def unreadable(path: Path) -> frozenset[str]:
    """Keys of the images that a run left out."""
    if not path.exists():
        return frozenset()
    return frozenset(str(row["key"]) for row in journal.read(path))


def recompute(
    order: Order,
    keys: Sequence[str],
    batch_size: int,
    steps: Sequence[int],
    *,
    repeats: int = 1,
    without: frozenset[str] = frozenset(),
) -> Iterator[int]:
    """The ledger after each of some steps, which rise."""
    total, done = 0, 0
    for until in steps:
        for step in range(done, until):
            positions = np.arange(step * batch_size, (step + 1) * batch_size) // repeats
            names = (keys[int(sample)] for sample in order.at(positions)[1])
            total += sum(entry(step, name) for name in names if name not in without)
        done = until
        yield total & MASK
