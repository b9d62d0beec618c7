"""Two processes that want one folder, and a reader beside a writer."""

import dataclasses
import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.checkpoints import write
from tests.support.runs import TINY, no_report
from tests.support.trials import in_child
from vitrail.checkpoints.read import newest
from vitrail.training import loop

pytestmark = pytest.mark.fault


def test_of_two_processes_that_start_at_once_one_trains(memory: Path, sweep: int) -> None:
    """3 races, 50 under `make deep`: one ends with 0, the other with 78, and the run is whole."""
    finish_quickly = dataclasses.replace(TINY, length="6 steps")
    slowest = 0.0
    for race in range(50 if sweep > 1 else 3):
        folder, start = memory / f"race-{race}", time.monotonic() + 0.2

        def work(folder: Path = folder, start: float = start) -> None:
            with no_report():
                while time.monotonic() < start:  # both leave at the same moment
                    pass
                loop.train(finish_quickly, out=folder, quiet=True)

        running = {in_child(work) for _ in range(2)}
        codes = []
        while running:
            pid, status = os.wait()
            if pid in running:
                running.remove(pid)
                codes.append(os.waitstatus_to_exitcode(status))
                if codes == [78]:
                    slowest = max(slowest, time.monotonic() - start)
        assert sorted(codes) == [0, 78]
        assert newest(folder / "checkpoints", say=pytest.fail).step == 6
    print(f"{race + 1} races, one winner each; the other left after at most {slowest:.2f} s")


def test_a_reader_beside_a_writer_never_sees_half(tmp_path: Path, sweep: int) -> None:
    """While a run writes and prunes as fast as it can, whoever asks for the newest checkpoint gets a whole one."""
    write(tmp_path, 1)

    def work() -> None:
        for step in range(2, 1_000_000):
            write(tmp_path, step)

    pid, reads, last, rng = in_child(work), 1_000 if sweep > 1 else 200, 0, random.Random(0)
    seen, done = set(), 0
    try:
        while done < reads or len(seen) <= 20:  # a slow machine reads more often until it has met 20 checkpoints
            done += 1
            snapshot = newest(tmp_path, say=pytest.fail)
            assert snapshot is not None and snapshot.step >= last and snapshot.facts["step"] == snapshot.step
            last = snapshot.step
            seen.add(last)
            time.sleep(rng.uniform(0, 0.002))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    print(f"{done} reads beside a writer, {len(seen)} different checkpoints, none torn")
