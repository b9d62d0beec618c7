"""Proof of the training order: every sample once an epoch, in one order, whatever kills, workers and ranks there were.

The ledger is one number, the sum over all samples so far of a hash of (step, key), modulo 2⁶⁴. A sample missed, taken twice or
in another step changes it; the shares of ranks add up. It stands in every line of the log, and `verify` computes it again from
nothing but the data and the seed.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from vitrail.batches.order import Order
from vitrail.errors import DataError
from vitrail.images.sources import open_data
from vitrail.processes.world import World
from vitrail.reports import journal
from vitrail.training.run_folder import RunFolder

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


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: how much was checked, and the first logged step whose number differs."""

    lines: int
    samples: int
    unreadable: int
    """Images that could not be read and were left out; they are listed in bad_samples.jsonl."""
    wrong_at: int | None


def verify(path: Path) -> Verified:
    """Computes the ledger of a run again and compares every line of its log. Raises DataError when there is none to compare."""
    run = RunFolder.reopen(path).run
    source = open_data(run.data, holdout=run.holdout).train
    rows = [(row["step"], row["ledger"]) for row in journal.read(path / "metrics.jsonl") if "ledger" in row]
    if not rows:
        raise DataError(f"{path} has no ledger in its log", next_step="train a step or more first")
    bad = unreadable(path / "bad_samples.jsonl")
    steps = [step for step, _ in rows]
    order = Order(len(source), run.seed)
    numbers = recompute(order, source.keys, run.batch_size, steps, repeats=run.augment.repeats, without=bad)
    wrong = (step for (step, found), wanted in zip(rows, numbers, strict=True) if found != f"{wanted:016x}")
    return Verified(len(rows), steps[-1] * run.batch_size, len(bad), next(wrong, None))


def unreadable(path: Path) -> frozenset[str]:
    """Keys of the images that a run left out."""
    if not path.exists():
        return frozenset()
    return frozenset(json.loads(line)["key"] for line in path.read_text("utf-8").splitlines())


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
