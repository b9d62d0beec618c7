"""kill -9 at any moment: the resumed run ends with the bits of a run without a kill.

A warm process forks one child a trial, so a trial costs what its training costs.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.support.runs import assert_same_run
from tests.support.trials import in_child, train_to_the_end

pytestmark = pytest.mark.fault


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks")
@pytest.mark.timeout(1800)
def test_killed_at_random_moments_and_resumed(whole_run: tuple[Path, float], memory: Path, sweep: int) -> None:
    """6 kills (1,000 under `make deep`): some runs are killed once, some five times in a row; all end bit-equal."""
    reference, seconds = whole_run
    rng, kills, runs = random.Random(0), 0, 0
    while kills < (1_000 if sweep > 1 else 6):
        folder = memory / f"killed-{runs}"
        for _ in range(rng.choice([1, 1, 2, 5])):
            pid = in_child(train_to_the_end(folder))
            time.sleep(rng.uniform(0, seconds))
            os.kill(pid, signal.SIGKILL)
            killed = os.WIFSIGNALED(os.waitpid(pid, 0)[1])
            kills += killed
            seconds *= 1.02 if killed else 0.95  # the machine may have been busier when the whole run was timed
        pid = in_child(train_to_the_end(folder))
        assert os.waitpid(pid, 0)[1] == 0
        assert_same_run(reference, folder)
        shutil.rmtree(folder)
        runs += 1
    print(f"{kills} kills in {runs} runs, {runs} of {runs} bit-equal")


@pytest.mark.timeout(1800)
def test_a_signal_in_any_phase_leaves_a_checkpoint(whole_run: tuple[Path, float], memory: Path, sweep: int) -> None:
    """3 SIGTERMs (200 under `make deep`) at random moments after the run has its folder: exit 143, then bit-equal."""
    reference, seconds = whole_run
    rng, trials, stopped, slowest = random.Random(1), 0, 0, 0.0
    while stopped < (200 if sweep > 1 else 3):
        folder = memory / f"signal-{trials}"
        pid = in_child(train_to_the_end(folder))
        while not (folder / "run.json").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.8 * seconds))
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        status = os.waitpid(pid, 0)[1]
        slowest = max(slowest, time.monotonic() - began)
        code = os.waitstatus_to_exitcode(status)
        # 0: it had just finished; by SIGTERM itself: so it had, and the loop had given the signals back
        assert code in (0, 143, -signal.SIGTERM), code
        if code == -signal.SIGTERM:
            assert last_step(folder) == last_step(reference)
        if code == 143:
            stopped += 1
            assert list((folder / "checkpoints").glob("step-*"))
        seconds *= 1.02 if code == 143 else 0.95  # as above
        assert os.waitpid(in_child(train_to_the_end(folder)), 0)[1] == 0
        assert_same_run(reference, folder)
        shutil.rmtree(folder)
        trials += 1
    print(f"{stopped} stops in {trials} runs, the slowest took {slowest:.2f} s")


def last_step(folder: Path) -> str:
    """The newest checkpoint's name."""
    return max(path.name for path in (folder / "checkpoints").glob("step-*"))
