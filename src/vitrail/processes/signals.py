"""Being asked to stop: the handler only raises a flag, and the loop looks at it between micro-steps and batches."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
AGAIN = 1.0
"""Seconds within which a second signal is the first once more: a scheduler tells the whole group, torchrun and a study tell
their children too."""


class Interrupted(Exception):
    """Raised between batches, so that an evaluation ends at once and the loop can write its checkpoint."""


class Stopped(BaseException):
    """Raised where the program is when it is told to stop: a KeyboardInterrupt of ours.

    With Python's own, an interpreter that was in an `exec` just then (imports are, often) would not leave with our exit code.
    """


class StopSignals:
    """While entered, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 set `asked`, or raise Stopped; one more ends the process at once.

    One that was entered within another begins with what that was asked, and leaves it what it was asked itself: a signal that
    finds a run at its report stops the next run. Outside the main thread, which alone gets signals, it does nothing.
    """

    def __init__(self, *, raising: bool = False) -> None:
        self.asked: int | None = None
        self._raising, self._when = raising, 0.0
        self._before: dict[int, Any] = {}
        self._outer: StopSignals | None = None

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in ASKED}
            outer = getattr(self._before[signal.SIGTERM], "__self__", None)
            if isinstance(outer, StopSignals):
                self._outer, self.asked, self._when = outer, outer.asked, outer._when
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # whatever stood there before
        if self._outer:
            self._outer.asked, self._outer._when = self.asked, self._when

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked, self._when = number, time.monotonic()
            if self._raising:
                raise Stopped
        elif time.monotonic() - self._when > AGAIN:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # a live bar hides the cursor, and nobody is left to show it again
            os._exit(128 + number)

    @property
    def exit_code(self) -> int:
        """130 on Ctrl-C, else 143: pre-empted, or told by another rank."""
        return 130 if self.asked == signal.SIGINT else 143

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is asked for."""
        for item in items:
            if self.asked is not None:
                raise Interrupted
            yield item
