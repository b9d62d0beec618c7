"""How fast a training goes."""

import time

from vitrail import machine
from vitrail.training.setup import Setup


class Speed:
    """Images a second over all ranks, and their share of the measured peak of as many machines as this."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._flops = setup, setup.flops_per_image
        self._peak = machine.peak_flops(setup.device, setup.dtype) * setup.world.size
        self._since, self._steps = time.perf_counter(), 0

    def step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        seconds = max(1e-9, time.perf_counter() - self._since)
        rate = self._steps * self._setup.run.batch_size / seconds
        self._since, self._steps = time.perf_counter(), 0
        self._peak = max(self._peak, rate * self._flops)  # less, where other work ran while it was measured
        return {"images_per_s": rate, "peak_share": rate * self._flops / self._peak}
