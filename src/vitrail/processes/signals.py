"""Being asked to stop: the handler only raises a flag, and the loop looks at it between micro-steps and batches.

Windows has neither SIGUSR1, SIGHUP nor signal masks; there Ctrl-C and SIGTERM work, and `block_signals` does nothing.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")


def known(*names: str) -> tuple[signal.Signals, ...]:
    return tuple(getattr(signal, name) for name in names if hasattr(signal, name))


ASKED = known("SIGTERM", "SIGINT", "SIGUSR1")
FOR_THE_GROUP = known("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Signals that a scheduler or a terminal sends to all processes of a group."""
AGAIN = 1.0
"""A repeated signal within so many seconds is ignored: schedulers, torchrun and studies send it twice."""


@contextlib.contextmanager
def ignored(*names: str) -> Generator[None]:
    """Inside, the process takes no notice of these signals; in another thread than the main one this does nothing."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, signal.SIG_IGN) for number in known(*names) if main}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupted(Exception):
    """Raised between batches: an evaluation ends at once, and the loop writes its checkpoint."""


class Stopped(BaseException):
    """Raised wherever the program is when a signal asks it to stop. KeyboardInterrupt would lose the exit code during imports."""


class StopSignals:
    """While entered, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 set `asked`, or raise Stopped; one more ends the process at once.

    Nested uses share one request: a signal during a report stops the next run too. Only the main thread gets signals; in
    another thread this does nothing.
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
            signal.signal(number, handler)
        if self._outer:
            self._outer.asked, self._outer._when = self.asked, self._when

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is None:
            self.asked, self._when = number, time.monotonic()
            if self._raising:
                raise Stopped
        elif time.monotonic() - self._when > AGAIN:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # shows the cursor, which a live bar hides
            os._exit(128 + number)

    @property
    def exit_code(self) -> int:
        """130 on Ctrl-C, else 143: preempted, or told by another rank."""
        return 130 if self.asked == signal.SIGINT else 143

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is asked for."""
        for item in items:
            if self.asked is not None:
                raise Interrupted
            yield item


@contextlib.contextmanager
def block_signals(*numbers: signal.Signals) -> Generator[None]:
    """Signals of these numbers wait until the block ends. Processes started inside it inherit that they are blocked."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
