"""Random numbers by counter: a draw is a pure function of (seed, epoch, sample, name), so it depends on nothing else.

No state to save, no order to keep: worker counts, restarts and the draws of other images cannot change it. The mixing
function is the finaliser of splitmix64 (Steele, Lea and Flood 2014, with Stafford's variant 13 of the constants).
"""

import hashlib
from collections.abc import Callable
from functools import cache

import numpy as np
import torch
from jaxtyping import Float64, Int64, UInt64

_MASK = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
_11, _27, _30, _31 = np.array([11, 27, 30, 31], np.uint64)


def hash64(
    *counters: int | Int64[np.ndarray, "B"], state: UInt64[np.ndarray, "B"] | None = None
) -> UInt64[np.ndarray, "B"]:
    """64 well-mixed bits of some integers, in their order; arrays among them are taken element by element.

    `state` is what the counters before them gave: hash64(a, b) = hash64(b, state=hash64(a)).
    """
    state = np.zeros(1, np.uint64) if state is None else state
    for counter in counters:
        value = counter.astype(np.uint64) if isinstance(counter, np.ndarray) else np.array([counter & _MASK], np.uint64)
        state = _finalise(state ^ _finalise(value + _GOLDEN))
    return state


def _finalise(x: UInt64[np.ndarray, "B"]) -> UInt64[np.ndarray, "B"]:
    x = (x ^ (x >> _30)) * _FIRST
    x = (x ^ (x >> _27)) * _SECOND
    return x ^ (x >> _31)


@cache
def _word(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def uniform(
    seed: int, epoch: int | Int64[np.ndarray, "B"], samples: Int64[np.ndarray, "B"], name: str
) -> Float64[np.ndarray, "B"]:
    """One number in [0, 1) a sample, of 53 bits; `name` tells the draws of one sample apart ("flip", "crop.x")."""
    return _unit(hash64(seed, epoch, samples, _word(name)))


def _unit(bits: UInt64[np.ndarray, "B"]) -> Float64[np.ndarray, "B"]:
    return (bits >> _11) * 2.0**-53


class Draws:
    """The draws of a batch's samples by name: `draws("flip")` has B numbers, `draws.of(i)("flip")` is the i-th."""

    def __init__(self, seed: int, epochs: Int64[np.ndarray, "B"], samples: Int64[np.ndarray, "B"]) -> None:
        self._state = hash64(seed, epochs, samples)
        self._made: dict[str, np.ndarray] = {}

    def __call__(self, name: str) -> Float64[np.ndarray, "B"]:
        if name not in self._made:
            self._made[name] = _unit(hash64(_word(name), state=self._state))
        return self._made[name]

    def of(self, index: int) -> Callable[[str], float]:
        """The draws of one sample of the batch."""
        return lambda name: float(self(name)[index])


def seed_of(seed: int, *counters: int) -> int:
    """A seed of 63 bits for code that insists on its own generator."""
    return int(hash64(seed, *counters)[0] >> np.uint64(1))


def generator(seed: int, *counters: int) -> torch.Generator:
    """A fresh CPU generator for (seed, counters), for code that needs one."""
    return torch.Generator().manual_seed(seed_of(seed, *counters))
