"""kill -9 at any moment: the resumed run ends with the bits of the run nobody touched.

A warm process forks one child a trial, so a trial costs what its training costs.
"""

import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.flow.test_training import TINY, assert_same_run
from vitrail.train import finish, loop


def in_child(work: Callable[[], object]) -> int:
    """Forks a child that does `work` with its output thrown away; gives its pid."""
    pid = os.fork()
    if pid == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os._exit(getattr(error, "exit_code", 99))
    return pid


def train_to_the_end(folder: Path) -> Callable[[], object]:
    """A fresh run, or the rest of one that was killed; a kill before run.json was written leaves nothing to resume.

    The report is left undrawn: it takes ten times as long as this run, and follows from the files that are compared.
    """

    def work() -> None:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(finish, "write_report", lambda *nothing: None)
            patched.setattr(finish, "sheet", lambda *nothing: b"")
            begun = (folder / "run.json").exists()
            loop.train(None if begun else TINY, out=folder, resume=begun, quiet=True)

    return work


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: what a kill leaves does not depend on the disk, and a sync costs nothing."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def whole(memory: Path) -> tuple[Path, float]:
    """The run nobody touched, and how long it takes; once in this process first, so that its children start warm."""
    train_to_the_end(memory / "warm")()
    folder = memory / "whole"
    began = time.monotonic()
    pid = in_child(train_to_the_end(folder))
    assert os.waitpid(pid, 0)[1] == 0
    return folder, time.monotonic() - began


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_and_resumed(whole: tuple[Path, float], memory: Path, sweep: int) -> None:
    """100 kills (1,000 under `make deep`): some runs are killed once, some five times in a row; all end bit-equal."""
    reference, seconds = whole
    rng, kills, runs = random.Random(0), 0, 0
    while kills < 100 * sweep:
        folder = memory / f"killed-{runs}"
        for _ in range(rng.choice([1, 1, 2, 5])):
            pid = in_child(train_to_the_end(folder))
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            kills += os.WIFSIGNALED(os.waitpid(pid, 0)[1])
        pid = in_child(train_to_the_end(folder))
        assert os.waitpid(pid, 0)[1] == 0
        assert_same_run(reference, folder)
        shutil.rmtree(folder)
        runs += 1
    print(f"{kills} kills in {runs} runs, {runs} of {runs} bit-equal")


@pytest.mark.timeout(900)
def test_a_signal_in_any_phase_leaves_a_checkpoint(whole: tuple[Path, float], memory: Path, sweep: int) -> None:
    """20 SIGTERMs (200 under `make deep`) at random moments after the run has its folder: exit 143 within 10 s, then bit-equal."""
    reference, seconds = whole
    rng, stopped, slowest = random.Random(1), 0, 0.0
    for trial in range(20 * sweep):
        folder = memory / f"signal-{trial}"
        pid = in_child(train_to_the_end(folder))
        while not (folder / "run.json").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.8 * seconds))
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        status = os.waitpid(pid, 0)[1]
        slowest = max(slowest, time.monotonic() - began)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, 143), code  # 0: it had just finished
        if code == 143:
            stopped += 1
            assert list((folder / "checkpoints").glob("step-*"))
        assert os.waitpid(in_child(train_to_the_end(folder)), 0)[1] == 0
        assert_same_run(reference, folder)
    assert stopped >= 10 * sweep and slowest < 10
    print(f"{stopped} stops, the slowest took {slowest:.2f} s")
