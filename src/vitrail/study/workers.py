"""Independent tasks: one after the other here, side by side in processes, or on a Ray cluster. An error is an answer."""

import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

from vitrail.errors import ConfigError, MemoryRanOut, Preempted, VitrailError, recognise_error
from vitrail.processes.signals import Stopped, StopSignals, block_signals

Task = TypeVar("Task")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Failure:
    """Why a task has no answer, in words that travel between processes."""

    why: str
    exit_code: int = VitrailError.exit_code


KILLED = Failure("its process was killed; most often the memory ran out", MemoryRanOut.exit_code)


def each(
    function: Callable[[Task], Found], tasks: Sequence[Task], at_once: int = 1, ray: str = ""
) -> Iterator[tuple[Task, Found | Failure]]:
    """(task, its answer or its Failure) as they are done; in their order where one runs at a time.

    A signal ends them all: those that run are asked to stop, and waited for. Raises Preempted.
    """
    if ray:
        yield from _on_ray(function, tasks, ray)
    elif at_once > 1 and len(tasks) > 1:
        yield from _side_by_side(function, tasks, at_once)
    else:
        yield from ((task, attempt(function, task)) for task in tasks)


def attempt(function: Callable[[Task], Found], task: Task) -> Found | Failure:
    """The answer, or why there is none."""
    try:
        return function(task)
    except Preempted:
        raise
    except Exception as error:
        known = (
            error if isinstance(error, VitrailError) else recognise_error(error, "training", "train a smaller model")
        )
        if known:
            return Failure(str(known), known.exit_code)
        place = traceback.extract_tb(error.__traceback__)[-1]
        return Failure(f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}, line {place.lineno})")


def _side_by_side(
    function: Callable[[Task], Found], tasks: Sequence[Task], wide: int
) -> Iterator[tuple[Task, Found | Failure]]:
    """In processes. After one was killed, those without an answer run one by one, until the one that does it is found."""
    left, at_once = list(tasks), wide
    while left:
        for task, found in _pool(function, left, at_once):
            left.remove(task)
            yield task, found
        if left and at_once == 1:  # one process takes its tasks in their order
            yield left.pop(0), KILLED
            at_once = wide
        else:
            at_once = 1


def _pool(function: Callable[[Task], Found], tasks: Sequence[Task], at_once: int) -> Iterator[tuple[Task, Any]]:
    """Answers of one pool of processes, until one of them is killed."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        at_once, mp_context=context, initializer=_begin, initargs=(context.Value("i", 0), _gpus())
    )
    with StopSignals(raising=True) as stop:
        try:
            with block_signals(signal.SIGINT):  # Ctrl-C reaches the group; this process asks the others to stop
                futures = {pool.submit(attempt, function, task): task for task in tasks}
            for future in as_completed(futures):
                if not isinstance(future.exception(), BrokenProcessPool):
                    yield futures[future], future.result()
        except Stopped:
            _end(pool)
            raise stopped(stop.exit_code) from None
        except BaseException:
            _end(pool)
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(count: Any, gpus: int) -> None:
    """Starts each process: it takes the next GPU, and ends when the process that started it is gone."""
    parent: Any = multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    with count.get_lock():
        number, count.value = count.value, count.value + 1
    if gpus:
        given = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["CUDA_VISIBLE_DEVICES"] = given.split(",")[number % gpus]


def _gpus() -> int:
    """Of this machine, where the caller has loaded torch; then it means to use it."""
    torch = sys.modules.get("torch")
    return torch.cuda.device_count() if torch else 0


def _end(pool: Any) -> None:
    """Asks the processes to stop; their work is in their checkpoints."""
    running = list((pool._processes or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for process in running:
        if process.is_alive():
            process.terminate()


def stopped(exit_code: int) -> Preempted:
    error = Preempted("stopped by a signal", next_step="the same command goes on from there")
    error.exit_code = exit_code
    return error


def _on_ray(
    function: Callable[[Task], Found], tasks: Sequence[Task], address: str
) -> Iterator[tuple[Task, Found | Failure]]:
    """As Ray tasks of one core, and one GPU where the cluster has some. A lost worker's task runs again."""
    try:
        import ray  # pyrefly: ignore[missing-import]
    except ImportError:
        raise ConfigError("Ray is not installed", next_step="pip install 'vitrail[ray]', or leave `ray` out") from None
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve cells behind everything else
    ray.init(address=None if address == "local" else address, log_to_driver=False, include_dashboard=False)
    try:
        gpus = 1 if ray.cluster_resources().get("GPU") else 0
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=3)(attempt)
        waiting = {remote.remote(function, task): task for task in tasks}
        while waiting:
            for done in ray.wait(list(waiting))[0]:
                try:
                    found = ray.get(done)
                except ray.exceptions.RayError as error:
                    why = str(error).strip().splitlines()[-1:]
                    found = Failure(": ".join(["Ray gave it up", type(error).__name__, *why]), KILLED.exit_code)
                yield waiting.pop(done), found
    finally:
        ray.shutdown()
