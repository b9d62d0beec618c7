"""The order of samples: a keyed permutation of every epoch, computed where it is asked for and stored nowhere."""

import numpy as np
from jaxtyping import Int64

from vitrail.batches.draws import hash64
from vitrail.errors import DataError

ROUNDS = 8
_BLOCK = 4096


class Order:
    """Which sample stands at which position. A position is one integer that counts over all epochs.

    Each epoch is a permutation of 0 … N-1: a Feistel network over a·b ≥ N cells (Black and Rogaway 2002). Its halves
    count modulo a and b; cycle walking leads back a cell that lies beyond N. Nothing is stored, so the position in the
    stream is all the state there is, and any share of it can be computed anywhere.
    """

    def __init__(self, num_samples: int, seed: int) -> None:
        if num_samples < 1:
            raise DataError("there are no images to put in order", next_step="check the data's folder")
        self.num_samples, self.seed = num_samples, seed
        self._a = int(np.ceil(np.sqrt(num_samples)))
        self._b = -(-num_samples // self._a)
        self._kept: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def at(self, positions: Int64[np.ndarray, "B"]) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        """(epoch, index of the sample) at each position."""
        epochs, cells = np.divmod(positions, self.num_samples)
        cells = self._permute(epochs, cells)
        while (beyond := cells >= self.num_samples).any():  # fewer than one in sqrt(N)
            cells[beyond] = self._permute(epochs[beyond], cells[beyond])
        return epochs, cells

    def between(self, first: int, stop: int) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        """`at` for the positions first … stop - 1, made in blocks that are kept for the batches that follow."""
        blocks = [self._block(number) for number in range(first // _BLOCK, -(-stop // _BLOCK))]
        epochs, samples = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        skip = first // _BLOCK * _BLOCK
        return epochs[first - skip : stop - skip], samples[first - skip : stop - skip]

    def _block(self, number: int) -> tuple[Int64[np.ndarray, "B"], Int64[np.ndarray, "B"]]:
        if number not in self._kept:
            if len(self._kept) > 3:
                self._kept.clear()
            self._kept[number] = self.at(np.arange(number * _BLOCK, (number + 1) * _BLOCK))
        return self._kept[number]

    def _permute(self, epochs: Int64[np.ndarray, "B"], cells: Int64[np.ndarray, "B"]) -> Int64[np.ndarray, "B"]:
        right, left = np.divmod(cells, self._a)
        for turn in range(ROUNDS):
            if turn % 2:
                right = self._turn(right, self._b, epochs, left, turn)
            else:
                left = self._turn(left, self._a, epochs, right, turn)
        return right * self._a + left

    def _turn(self, half: np.ndarray, modulus: int, epochs: np.ndarray, other: np.ndarray, turn: int) -> np.ndarray:
        step = hash64(self.seed, epochs, turn, other) % np.uint64(modulus)
        return (half + step.astype(np.int64)) % modulus
