"""Proof of what was learnt from: every sample once an epoch, in one order, whatever kills, workers and ranks there were.

The ledger is one number, the sum over all samples so far of a hash of (position in the stream, key), modulo 2⁶⁴. A sample
missed, taken twice or at another place changes it; the shares of ranks add up. It stands in every line of the log, and
`verify` computes it again from nothing but the data and the seed.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitrail.batches.order import Order
from vitrail.errors import DataError
from vitrail.images.sources import open_data
from vitrail.reports import journal
from vitrail.train.folder import RunFolder
from vitrail.train.world import World

MASK = (1 << 64) - 1


class Ledger:
    """The sum of this rank's samples; the sums of all ranks are the run's."""

    def __init__(self, total: int = 0) -> None:
        self._total = total

    def add(self, position: int, keys: Sequence[str]) -> None:
        """`keys` were learnt from, the first of them at `position` of the stream."""
        entries = sum(entry(position + offset, key) for offset, key in enumerate(keys))
        self._total = (self._total + entries) & MASK

    def value(self, world: World) -> int:
        """The run's number; every rank must ask."""
        if world.alone:
            return self._total
        halves = torch.tensor([self._total >> 32, self._total & 0xFFFFFFFF])
        high, low = (int(half) for half in world.sum(halves))
        return ((high << 32) + low) & MASK


def entry(position: int, key: str) -> int:
    """64 bits of blake2b over the position and the key."""
    text = f"{position}\0{key}".encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Verified:
    """What `verify` found: lines of the log checked, and the first step whose number differs."""

    lines: int
    samples: int
    wrong_at: int | None


def verify(path: Path) -> Verified:
    """Computes the ledger of a run again and compares every line of its log. Raises DataError when there is none to compare."""
    run = RunFolder.reopen(path).run
    source = open_data(run.data, holdout=run.holdout).train
    rows = [(row["step"], row["ledger"]) for row in journal.read(path / "metrics.jsonl") if "ledger" in row]
    if not rows:
        raise DataError(f"{path} has no ledger in its log", next_step="train a step or more first")
    numbers = expected(Order(len(source), run.seed), source.keys, run.batch_size, [step for step, _ in rows])
    for (step, found), wanted in zip(rows, numbers, strict=True):
        if found != f"{wanted:016x}":
            return Verified(len(rows), rows[-1][0] * run.batch_size, step)
    return Verified(len(rows), rows[-1][0] * run.batch_size, None)


def expected(order: Order, keys: Sequence[str], batch_size: int, steps: Sequence[int]) -> Iterator[int]:
    """The ledger after each of some steps, which rise."""
    total, done = 0, 0
    for step in steps:
        while done < step * batch_size:
            upto = min(step * batch_size, done + 65_536)
            _, samples = order.at(np.arange(done, upto))
            total += sum(entry(done + offset, keys[int(sample)]) for offset, sample in enumerate(samples))
            done = upto
        yield total & MASK
