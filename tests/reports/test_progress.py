"""Progress: lines where there is no terminal, a live bar where there is one, stdout untouched, tidy after Ctrl-C."""

import os
import pty
import re
import subprocess
import sys

import pytest

from vitrail.reports import progress as module
from vitrail.reports.progress import Lines, duration, progress, show, track


class Clock:
    """time.monotonic that moves when told to."""

    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def test_lines_come_at_the_start_after_two_seconds_every_ten_and_at_the_end(clock, capfd):
    with progress(100, "Training") as bar:
        for step in range(1, 101):
            clock.now += 0.3
            bar.update(step, loss=1.0)
    out, err = capfd.readouterr()
    assert out == ""
    counts = [int(re.search(r"Training (\d+)/100", line)[1]) for line in err.splitlines()]
    assert counts == [0, 7, 41, 75, 100]


def test_time_left_is_the_pace_of_this_run_not_of_the_steps_before_a_resume(clock, capfd):
    with progress(1000, "Training", done=900) as bar:
        clock.now += 20
        bar.update(950)
        assert bar.left() == "0:20 left"
    assert "Training 900/1,000\n" in capfd.readouterr().err


def test_the_numbers_of_a_run_as_one_line():
    numbers = {
        "loss": 0.12345,
        "accuracy": 0.971,
        "images_per_s": 12345.6,
        "peak_share": 0.31,
        "my_score": 3.14159,
        "lr": None,
    }
    assert show(numbers) == "loss 0.1235 · accuracy 97.1% · 12,346 img/s · 31% of peak · my score 3.142"


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0, "0:00"), (59.6, "1:00"), (754.0, "12:34"), (10921.0, "3:02:01"), (-1.0, "0:00")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_track_gives_every_item_and_says_so(capfd):
    assert list(track(iter("abc"), 3, "Evaluating")) == ["a", "b", "c"]
    assert "Evaluating 3/3" in capfd.readouterr().err


def test_short_work_within_a_run_is_silent_and_long_work_is_not(clock, capfd):
    with Lines(10, "Training") as bar:
        for _ in bar.track(range(3), 3, "Evaluating"):
            clock.now += 1
        assert "Evaluating" not in capfd.readouterr().err
        for _ in bar.track(range(3), 3, "Evaluating"):
            clock.now += 11
        assert "Evaluating 1/3 · 0:22 left" in capfd.readouterr().err


SCRIPT = """
import time
from vitrail.reports.progress import progress
print('{"begin": 1}')
with progress(20, "Training") as bar:
    for step in range(1, 21):
        bar.update(step, loss=1 / step)
        time.sleep(0.05)
        for _ in bar.track(range(2), 2, "Evaluating"):
            pass
        if step == 10:
            STOP
    bar.note("[kept] as written")
print('{"end": 1}')
"""


def on_a_terminal(code: str) -> tuple[str, str, int]:
    """Runs code with stderr on a pseudo-terminal and stdout on a pipe: (stdout, screen, exit status)."""
    outer, inner = pty.openpty()
    env = os.environ | {"TERM": "xterm-256color", "COLUMNS": "80"}
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=inner, text=True, env=env)
    os.close(inner)
    screen = b""
    while chunk := _read(outer):
        screen += chunk
    out, _ = child.communicate(timeout=60)
    os.close(outer)
    return out, screen.decode(), child.returncode


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # Linux says so when the other end of a pseudo-terminal closes
        return b""


def test_on_a_terminal_the_bar_is_live_and_stdout_stays_clean():
    out, screen, status = on_a_terminal(SCRIPT.replace("STOP", "pass"))
    assert status == 0
    assert out == '{"begin": 1}\n{"end": 1}\n'
    assert "20/20" in screen and "loss 0.0500" in screen and "[kept] as written" in screen
    lines = screen.count("\n") - screen.count("\x1b[1A")
    assert lines <= 20 + 2, "twenty notes stay, and the two lines of the bar are drawn in place"


def test_interrupted_the_cursor_comes_back():
    _, screen, status = on_a_terminal(SCRIPT.replace("STOP", "raise KeyboardInterrupt"))
    assert status != 0
    assert screen.rfind("\x1b[?25h") > screen.rfind("\x1b[?25l") > -1


def test_updates_between_two_drawings_draw_nothing(capfd, clock):
    with progress(10_000, "Training") as bar:
        bar.update(0, loss=1.0)
        capfd.readouterr()
        for step in range(1, 10_000):
            bar.update(step, loss=1.0, accuracy=0.5, images_per_s=100.0)
        assert capfd.readouterr().err == ""


def test_quiet_says_nothing(capfd):
    with progress(2, "Training", quiet=True) as bar:
        bar.update(1, loss=1.0)
        bar.note("unheard")
        assert list(bar.track(range(3), 3, "Evaluating")) == [0, 1, 2]
    assert capfd.readouterr() == ("", "")
