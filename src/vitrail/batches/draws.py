"""Random numbers by counter: a draw is a pure function of (seed, epoch, sample, name), so it depends on nothing else.

No state to save, no order to keep: worker counts, restarts and the draws of other images cannot change it. The mixing
function is the finaliser of splitmix64 (Steele, Lea and Flood 2014, with Stafford's variant 13 of the constants).
"""

import hashlib
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt64

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def hash64(*counters: int | Int64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    """64 well-mixed bits of some integers, in their order; arrays among them are taken element by element."""
    state = np.zeros(1, np.uint64)
    for counter in counters:
        if isinstance(counter, np.ndarray):
            value = counter.astype(np.uint64)
        else:
            value = np.full(1, int(counter) & _MASK, np.uint64)
        state = _finalise(state ^ _finalise(value + np.uint64(_GOLDEN)))
    return state


def _finalise(x: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@cache
def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def uniform(
    seed: int, epoch: int | Int64[np.ndarray, "B"], samples: Int64[np.ndarray, "B"], name: str
) -> Float64[np.ndarray, "B"]:
    """One number in [0, 1) for each sample, of 53 bits; `name` tells the draws of one sample apart ("flip", "crop.x")."""
    bits = hash64(seed, epoch, samples, _word(name))
    return (bits >> np.uint64(11)) * 2.0**-53


class Draws:
    """The draws of a batch's samples, by name: `draws("flip")` is an array of B numbers, `draws.of(i)("flip")` its i-th."""

    def __init__(self, seed: int, epochs: Int64[np.ndarray, "B"], samples: Int64[np.ndarray, "B"]) -> None:
        self._seed, self._epochs, self._samples = seed, epochs, samples
        self._made: dict[str, Float64[np.ndarray, B]] = {}

    def __call__(self, name: str) -> Float64[np.ndarray, "B"]:
        if name not in self._made:
            self._made[name] = uniform(self._seed, self._epochs, self._samples, name)
        return self._made[name]

    def of(self, index: int) -> "Draw":
        return Draw(self, index)


class Draw:
    """The draws of one sample of a batch."""

    def __init__(self, draws: Draws, index: int) -> None:
        self._draws, self._index = draws, index

    def __call__(self, name: str) -> float:
        return float(self._draws(name)[self._index])


def seed_of(seed: int, *counters: int) -> int:
    """A seed of 63 bits for code that insists on its own generator."""
    return int(hash64(seed, *counters)[0] >> np.uint64(1))


def generator(seed: int, *counters: int) -> torch.Generator:
    """A fresh CPU generator for (seed, counters), for code that needs one."""
    return torch.Generator().manual_seed(seed_of(seed, *counters))
