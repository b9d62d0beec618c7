"""Worker processes that know nothing but their job: results come in the order of the tasks, whoever made them.

Task k goes to worker k mod W. A worker that dies or hangs is replaced and its tasks are given out again; since a result
is a function of its task alone, nothing changes but the time. Workers ignore the signals a scheduler sends to the whole
group, and end when their pipe closes, which it does however the parent ends.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import pickle
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import torch

from vitrail.errors import DataError, VitrailError

AHEAD = 3
"""Tasks each worker has been given and not yet delivered."""
PATIENCE = 60.0
"""Seconds without an answer after which a worker counts as hung."""
_DEATHS = 2  # of workers on one task, before the task is blamed

Job = Callable[[Any], Any]


def in_order(
    job: Job, tasks: Iterable[Any], workers: int, *, name: Callable[[Any], str] = str
) -> Generator[Any, None, None]:
    """job(task) for every task, in their order, made by `workers` processes ahead of time.

    A VitrailError of the job is raised here, whole. A task on which two workers died is a DataError that names it.
    """
    tasks = iter(tasks)
    crew = [Worker(job, name) for _ in range(workers)]
    try:
        for worker in crew * AHEAD:  # the first tasks, one each, then their second …
            worker.give(tasks)
        turn = 0
        while (worker := crew[turn % workers]).waiting:
            result = worker.take()
            worker.give(tasks)
            yield result
            turn += 1
    finally:
        for worker in crew:
            worker.stop()


class Worker:
    """One process, its pipe, and what it was given."""

    def __init__(self, job: Job, name: Callable[[Any], str]) -> None:
        self._job = pickle.dumps(job)
        self._name = name
        self.waiting: deque[Any] = deque()
        self._deaths = 0
        self._start()

    def _start(self) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = _context().Process(target=_serve, args=(theirs, self._job), daemon=True)
        with _no_main():
            self._process.start()
        theirs.close()
        for task in self.waiting:
            self._send(task)

    def give(self, tasks: Iterator[Any]) -> None:
        for task in tasks:
            self.waiting.append(task)
            self._send(task)
            return

    def _send(self, task: Any) -> None:
        with contextlib.suppress(OSError):  # a dead worker is found when its result is due
            self._pipe.send(task)

    def take(self) -> Any:
        """The result of the first task it was given, whatever it takes."""
        while True:
            fate = self._wait()
            if fate == "answered":
                with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
                    kind, result = self._pipe.recv()
                    break
                fate = "died"
            self._replace(fate)
        task, self._deaths = self.waiting.popleft(), 0
        if kind == "error":
            raise result
        if kind == "bug":
            raise RuntimeError(f"a loader process failed on {self._name(task)}:\n{result}")
        return result

    def _wait(self) -> str:
        ready = multiprocessing.connection.wait([self._pipe, self._process.sentinel], PATIENCE)
        return "answered" if self._pipe in ready else "died" if ready else f"gave no answer for {PATIENCE:.0f} seconds"

    def _replace(self, fate: str) -> None:
        self._deaths += 1
        self.stop()
        if self._deaths >= _DEATHS:
            raise DataError(
                f"{self._deaths} loader processes in a row {fate} on {self._name(self.waiting[0])}",
                next_step="one of these images may take more memory than there is; workers = 0 shows how it fails",
            )
        self._start()

    def stop(self) -> None:
        """Ends the process, now: it holds nothing that could be lost."""
        self._pipe.close()
        self._process.kill()
        self._process.join()
        self._process.close()


def _context() -> Any:
    """Workers are forked from a server that has imported us and nothing else: quick, and no lock can be held."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vitrail.batches.loader"])
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


def _serve(pipe: multiprocessing.connection.Connection, packed: bytes) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
    job = pickle.loads(packed)
    with contextlib.suppress(EOFError, OSError):  # the parent is done, or gone
        while True:
            pipe.send(_outcome(job, pipe.recv()))


def _outcome(job: Job, task: Any) -> tuple[str, Any]:
    try:
        return "result", job(task)
    except VitrailError as error:
        return "error", error
    except Exception:
        return "bug", traceback.format_exc()
