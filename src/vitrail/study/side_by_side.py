"""Independent tasks, several at a time, each in a process of its own: small models use one core best."""

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from vitrail.errors import Preempted, VitrailError

Task = TypeVar("Task")
Found = TypeVar("Found")


def each(function: Callable[[Task], Found], tasks: Sequence[Task], at_once: int) -> Iterator[tuple[Task, Found]]:
    """(task, what the function made of it) as they are done; in their order where one runs at a time.

    The first error ends them all: what still runs is asked to stop, as by a signal, and waited for.
    """
    if at_once < 2 or len(tasks) < 2:
        yield from ((task, function(task)) for task in tasks)
        return
    pool = ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn"))
    listening = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _stop) if listening else None
    try:
        futures = {pool.submit(function, task): task for task in tasks}
        for future in as_completed(futures):
            yield futures[future], future.result()
    except BrokenProcessPool:
        raise VitrailError(
            f"one of {at_once} processes was killed (out of memory?)",
            next_step="the same command goes on; with --at-once 1 it needs the least memory",
        ) from None
    except BaseException:
        _end(pool)
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _end(pool: Any) -> None:
    """Asks the processes to stop; what they were doing is in their checkpoints."""
    running = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in running:
        if process.is_alive():
            process.terminate()


def _stop(number: int, frame: object) -> None:
    raise Preempted("stopped by a signal", next_step="the same command goes on from there")
