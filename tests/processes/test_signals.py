"""Commands that are told to stop: one word, the documented exit code, no traceback, no process left behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.trials import alive
from vitrail.processes.signals import StopSignals

pytestmark = pytest.mark.fault

SLEEPS = """
import sys, time
from vitrail import cli
def sleeper(words):
    try:
        print("ready", flush=True)
        exec("time.sleep(60)")  # as in the middle of an import; Python notes a KeyboardInterrupt that leaves one
    finally:
        print("closed", flush=True)
        if words == ["slow"]:
            time.sleep(60)
cli.main_of = lambda name: sleeper
raise SystemExit(cli.main(sys.argv[1:]))
"""

STUDIES = """
import sys, time
from vitrail import cli
from vitrail.study.workers import each
def study(words):
    print("ready", flush=True)
    return len(list(each(time.sleep, [60, 60], at_once=2)))
if __name__ == "__main__":
    cli.main_of = lambda name: study
    raise SystemExit(cli.main(sys.argv[1:]))
"""


@contextmanager
def started(script: str, *words: str) -> Iterator[subprocess.Popen]:
    """The script in a process group of its own, from when it says it is ready."""
    words = (sys.executable, "-c", script, "predict", *words)
    process = subprocess.Popen(words, stdout=-1, stderr=-1, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.mark.parametrize("number", CODES)
def test_a_command_that_is_told_to_stop_closes_what_is_open(number: int) -> None:
    with started(SLEEPS) as process:
        process.send_signal(number)
        assert process.communicate(timeout=60) == ("closed\n", "stopped\n")
        assert process.returncode == CODES[number]


@pytest.mark.parametrize("number", CODES)
def test_told_once_more_it_ends_at_once(number: int) -> None:
    """Within a second it is the first signal again, which came by two ways."""
    with started(SLEEPS, "slow") as process:
        process.send_signal(number)
        assert process.stdout.readline() == "closed\n"
        process.send_signal(number)
        time.sleep(1.5)
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=10) == CODES[number]


def test_a_training_outside_the_main_thread_gets_no_signals() -> None:
    """Python lets only the main thread listen; that is no reason not to train in another."""
    found = []

    def work() -> None:
        with StopSignals() as stop:
            found.append(stop.asked)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [None]


def test_a_signal_that_finds_a_run_at_its_report_stops_the_next_run() -> None:
    """Of a study, or of --seeds: the first run ends, with all that is promised, and is not the last to hear of it."""
    with StopSignals(raising=True):
        with StopSignals() as first:
            os.kill(os.getpid(), signal.SIGTERM)
        with StopSignals() as second:
            assert first.asked == second.asked == signal.SIGTERM and second.exit_code == 143


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize("wait", [0.5, 5.0])
def test_a_study_told_to_stop_ends_with_its_processes(number: int, wait: float) -> None:
    """The whole group is told, as by a terminal or a scheduler; while they start, and while they work."""
    with started(STUDIES) as process:
        time.sleep(wait)
        os.killpg(process.pid, number)
        said = process.communicate(timeout=60)[1]
        assert said in ("stopped\n", "error: stopped by a signal; the same command goes on from there\n")
        assert process.returncode == CODES[number]
        gone(process.pid)


def test_the_processes_of_a_study_that_was_killed_end_too() -> None:
    with started(STUDIES) as process:
        deadline = time.monotonic() + 60
        while len(alive(process.pid)) < 4 and time.monotonic() < deadline:  # itself, a tracker and two
            time.sleep(0.05)
        time.sleep(2)
        process.kill()
        gone(process.pid)


def gone(group: int) -> None:
    deadline = time.monotonic() + 30
    while left := alive(group):
        assert time.monotonic() < deadline, f"left in the group: {left}"
        time.sleep(0.05)
