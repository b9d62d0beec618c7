"""Independent tasks, several at a time, each in a process of its own: small models use one core best."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from vitrail.errors import Preempted, VitrailError
from vitrail.processes.signals import Stopped, StopSignals, block_signals

Task = TypeVar("Task")
Found = TypeVar("Found")


def each(function: Callable[[Task], Found], tasks: Sequence[Task], at_once: int) -> Iterator[tuple[Task, Found]]:
    """(task, what the function made of it) as they are done; in their order where one runs at a time.

    The first error ends them all: what still runs is asked to stop, as by a signal, and waited for.
    """
    if at_once < 2 or len(tasks) < 2:
        yield from ((task, function(task)) for task in tasks)
        return
    pool = ProcessPoolExecutor(at_once, mp_context=multiprocessing.get_context("spawn"), initializer=_follow)
    with StopSignals(raising=True) as stop:
        try:
            with block_signals(signal.SIGINT):  # Ctrl-C reaches the group; this process asks the others to stop
                futures = {pool.submit(function, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise VitrailError(
                f"one of {at_once} processes was killed (out of memory?)",
                next_step="the same command goes on; with `at_once=1` it needs the least memory",
            ) from None
        except Stopped:
            _end(pool)
            raise _stopped(stop.exit_code) from None
        except BaseException:
            _end(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _follow() -> None:
    """Begins each process: it ends when the one that started it is gone, however that ended."""
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _end(pool: Any) -> None:
    """Asks the processes to stop; what they were doing is in their checkpoints."""
    running = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in running:
        if process.is_alive():
            process.terminate()


def _stopped(exit_code: int) -> Preempted:
    error = Preempted("stopped by a signal", next_step="the same command goes on from there")
    error.exit_code = exit_code
    return error
