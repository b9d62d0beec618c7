"""Worker processes with one job: results come in the order of the tasks, whichever process made them.

Task k goes to worker k mod W. A worker that dies or hangs is replaced and its tasks are given out again; since a result
is a function of its task alone, nothing changes but the time. Workers ignore the signals a scheduler sends to the whole
group, and end when their pipe closes, which it does however the parent ends.
"""

import contextlib
import math
import mmap
import multiprocessing
import multiprocessing.connection
import multiprocessing.reduction
import multiprocessing.resource_tracker
import os
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from vitrail.errors import DataError, MemoryRanOut, VitrailError
from vitrail.processes.signals import FOR_THE_GROUP, block_signals

AHEAD = 3
"""Tasks each worker has been given and not yet delivered."""
PATIENCE = 60.0
"""Seconds without an answer after which a worker counts as hung."""
_DEATHS = 2  # of workers on one task, before the task is blamed


Job = Callable[[Any, UInt8[np.ndarray, "M"] | None], tuple[UInt8[np.ndarray, "..."], Any]]
"""Work of a worker: an array for a task, and something small with it. The array may be written at the beginning of the second
argument, shared memory, which saves a copy."""


def in_order(
    job: Job, tasks: Iterable[Any], workers: int, *, largest: int = 0, name: Callable[[Any], str] = str
) -> Generator[tuple[UInt8[np.ndarray, "..."], Any], None, None]:
    """job(task) for every task, in their order, made by `workers` processes ahead of time.

    Arrays of up to `largest` bytes come through shared memory and are valid until the next is asked for. A VitrailError
    of the job is raised here, whole. A task on which two workers died is a DataError that names it.
    """
    tasks = iter(tasks)
    crew = [Worker(job, largest, name) for _ in range(workers)]
    try:
        for worker in crew * AHEAD:  # the first tasks, one each, then their second …
            worker.give(tasks)
        turn = 0
        while (worker := crew[turn % workers]).waiting:
            yield worker.take()
            worker.give(tasks)
            turn += 1
    finally:
        for worker in crew:
            worker.close()


class Slots:
    """Shared memory for the results that one worker has under way, in turn; none where the system has no memfd."""

    def __init__(self, size: int, file: int | None = None) -> None:
        self.size = size if hasattr(os, "memfd_create") else 0
        self.file: int | None = file
        if not self.size:
            return
        if file is None:
            self.file = os.memfd_create("vitrail")  # unlike /dev/shm it has no limit of its own
            os.ftruncate(self.file, self.size * AHEAD)
        assert self.file is not None
        self._map = mmap.mmap(self.file, self.size * AHEAD)

    def __getitem__(self, turn: int) -> UInt8[np.ndarray, "M"] | None:
        return np.frombuffer(self._map, np.uint8, self.size, turn % AHEAD * self.size) if self.size else None

    def __reduce__(self):  # to a child process, as it is started
        return _borrow, (self.size, None if self.file is None else multiprocessing.reduction.DupFd(self.file))

    def close(self) -> None:
        if self.file is not None:
            os.close(self.file)  # the map itself goes with the last array that looks into it


def _borrow(size: int, file: Any) -> Slots:
    return Slots(size, file.detach() if size else None)


class Worker:
    """One process, its pipe, its shared memory, and what it was given."""

    def __init__(self, job: Job, largest: int, name: Callable[[Any], str]) -> None:
        self._job, self._name = job, name
        self._slots = Slots(largest)
        self.waiting: deque[tuple[int, Any]] = deque()
        self._given = self._deaths = 0
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        context = _context()
        self._process = context.Process(target=_serve, args=(theirs, self._job, self._slots), daemon=True)
        with _no_main(), _shield_workers():
            self._process.start()
        theirs.close()
        for task in self.waiting:
            self._send(task)

    def give(self, tasks: Iterator[Any]) -> None:
        for task in tasks:
            self.waiting.append((self._given, task))
            self._send(self.waiting[-1])
            self._given += 1
            return

    def _send(self, task: Any) -> None:
        with contextlib.suppress(OSError):  # a dead worker is found when its result is due
            self._pipe.send(task)

    def take(self) -> tuple[UInt8[np.ndarray, "..."], Any]:
        """The result of the first task it was given, whatever it takes."""
        while True:
            fate = self._wait()
            if fate == "answered":
                with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
                    kind, result = self._pipe.recv()
                    break
                fate = "died"
            self._replace(fate)
        (turn, task), self._deaths = self.waiting.popleft(), 0
        if kind == "error":
            raise result
        if kind == "bug":
            failed = VitrailError(f"a loader process failed on {self._name(task)}: {result.splitlines()[-1]}")
            failed.add_note(result)
            raise failed
        array, beside = result
        if isinstance(array, tuple):  # a shape: the bytes are in the slot
            slot = self._slots[turn]
            assert slot is not None
            array = slot[: math.prod(array)].reshape(array)
        return array, beside

    def _wait(self) -> str:
        ready = multiprocessing.connection.wait([self._pipe, self._process.sentinel], PATIENCE)
        return "answered" if self._pipe in ready else "died" if ready else f"gave no answer for {PATIENCE:.0f} seconds"

    def _replace(self, fate: str) -> None:
        self._deaths += 1
        self._stop()
        if self._deaths >= _DEATHS:
            raise DataError(
                f"{self._deaths} loader processes in a row {fate} on {self._name(self.waiting[0][1])}",
                next_step="one of these images may take more memory than there is; workers = 0 shows how it fails",
            )
        self._start()

    def close(self) -> None:
        self._stop()
        self._slots.close()

    def _stop(self) -> None:
        """Ends the process, now: it holds nothing that could be lost."""
        if not self._pipe.closed:
            self._pipe.close()
            self._process.kill()
            self._process.join()
            self._process.close()


def _context() -> Any:
    """Workers are forked from a server that has imported this package only: quick, and no lock can be held."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitrail.batches.loader", "vitrail.images.policies"])
    return context


@contextlib.contextmanager
def _no_main() -> Iterator[None]:
    """The caller's script is not run again in the workers: it needs no `if __name__ == "__main__"`."""
    main = sys.modules["__main__"]
    hidden = {name: getattr(main, name) for name in ("__file__", "__spec__") if getattr(main, name, None) is not None}
    for name in hidden:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in hidden.items():
            setattr(main, name, value)


@contextlib.contextmanager
def _shield_workers() -> Generator[None]:
    """Blocks the signals of the group before a worker starts: it could be killed before it installs its own handlers."""
    with block_signals(*FOR_THE_GROUP):
        if os.name != "nt":
            multiprocessing.resource_tracker.ensure_running()  # it unblocks two of them here
        with block_signals(*FOR_THE_GROUP):
            yield


def _serve(pipe: multiprocessing.connection.Connection, job: Job, slots: Slots) -> None:
    for number in FOR_THE_GROUP:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    with contextlib.suppress(EOFError, OSError):  # the parent is done, or gone
        while True:
            turn, task = pipe.recv()
            pipe.send(_outcome(job, task, slots[turn]))


def _outcome(job: Job, task: Any, slot: UInt8[np.ndarray, "M"] | None) -> tuple[str, Any]:
    try:
        array, beside = job(task, slot)
    except VitrailError as error:
        return "error", error
    except MemoryError as error:
        return "error", MemoryRanOut(f"the memory ran out in a loader process ({error})", next_step="use fewer workers")
    except Exception:
        return "bug", traceback.format_exc()
    if slot is None or array.nbytes > slot.nbytes:
        return "result", (array, beside)
    if array.ctypes.data != slot.ctypes.data:
        slot[: array.nbytes] = array.reshape(-1)
    return "result", (array.shape, beside)
