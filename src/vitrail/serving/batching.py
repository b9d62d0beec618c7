"""One thread computes; a bounded queue stands before it. Cancelled work is not computed."""

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vitrail import machine
from vitrail.serving.problem import busy

Work = Callable[[Sequence[Tensor]], Sequence[Any]]
"""Images to answers, one for each."""


@dataclass(eq=False)
class Job:
    """One image that waits for its answer. Jobs of equal `key` may be computed together."""

    key: Hashable
    image: Tensor
    work: Work
    answer: "asyncio.Future[Any]"
    since: float = field(default_factory=time.perf_counter)


class Batcher:
    """The queue and the thread. Waiting for more images is no use on a CPU: what is there is computed at once."""

    def __init__(self, *, most: int, seconds: float, batch: int) -> None:
        """At most `most` images are admitted, and no more than can be answered in so many `seconds`."""
        self.most, self.seconds, self.batch = most, seconds, batch
        self.waiting = 0
        """Images that are admitted and not answered yet."""
        self.each = 0.0
        """Seconds an image took lately."""
        self.since = math.inf
        """When the computing that goes on began."""
        self.dropped = 0
        """Images that were not computed, since their clients had gone."""
        self._jobs: deque[Job] = deque()
        self._change = threading.Condition()
        self._stopping, self._started = False, threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="vitrail-model", daemon=True)

    def start(self) -> None:
        self._loop, here = asyncio.get_running_loop(), torch.get_num_threads()
        self._thread.start()
        self._started.wait()
        torch.set_num_threads(here)  # a new thread gets the number that was set last

    def stop(self) -> None:
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(5)

    @property
    def alive(self) -> bool:
        """Whether jobs are computed, none of them for longer than an answer may take."""
        return self._thread.is_alive() and time.perf_counter() - self.since < self.seconds

    def refuse_if_full(self, images: int = 1) -> None:
        """Raises the 503 of a full queue, also where the images could not be answered in time."""
        expected = (self.waiting + images) * self.each
        late = self.waiting and expected > self.seconds
        if self.waiting + images > max(self.most, images if not self.waiting else 0) or late:
            raise busy(expected)

    @contextlib.contextmanager
    def admit(self, images: int) -> Generator[None]:
        """A place in the queue for so many images, until the block ends."""
        self.refuse_if_full(images)
        self.waiting += images
        try:
            yield
        finally:
            self.waiting -= images

    async def submit(self, key: Hashable, image: Tensor, work: Work) -> tuple[Any, float, float]:
        """(answer, seconds in the queue, seconds of computing). A cancelled call that still waits is not computed."""
        assert self._loop is not None
        job = Job(key, image, work, self._loop.create_future())
        with self._change:
            self._jobs.append(job)
            self._change.notify()
        return await job.answer

    def _run(self) -> None:
        torch.get_num_threads()  # the first use of torch in a thread would set the number again
        torch.set_num_threads(machine.model_threads())
        self._started.set()
        while jobs := self._take():
            self.since = began = time.perf_counter()
            try:
                found: Sequence[Any] = jobs[0].work([job.image for job in jobs])
            except Exception as error:  # the thread goes on: the error is the answer
                found = [error] * len(jobs)
            took, self.since = time.perf_counter() - began, math.inf
            self.each = took / len(jobs) if not self.each else 0.8 * self.each + 0.2 * took / len(jobs)
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is closed, no client is left
                self._loop.call_soon_threadsafe(_deliver, jobs, found, began, took)

    def _take(self) -> list[Job]:
        """The next jobs that can be computed together, the longest waiting first; none when it is time to stop."""
        with self._change:
            while True:
                while not self._jobs and not self._stopping:
                    self._change.wait()
                if not self._jobs:
                    return []
                wanted = [job for job in self._jobs if not job.answer.done()]
                self.dropped += len(self._jobs) - len(wanted)
                alike = [job for job in wanted if job.key == wanted[0].key][: self.batch]
                self._jobs = deque(job for job in wanted if job not in alike)
                if alike:
                    return alike


def _deliver(jobs: Sequence[Job], found: Sequence[Any], began: float, took: float) -> None:
    for job, answer in zip(jobs, found, strict=True):
        if job.answer.done():
            continue
        if isinstance(answer, Exception):
            job.answer.set_exception(answer)
        else:
            job.answer.set_result((answer, began - job.since, took))
