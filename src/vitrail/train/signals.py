"""Being asked to stop: the handler only raises a flag, and the loop looks at it between micro-steps and batches."""

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

ASKED = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class Interrupted(Exception):
    """Raised between batches, so that an evaluation ends at once and the loop can write its checkpoint."""


class StopSignals:
    """While entered, SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 set `asked`; a second one ends the process at once."""

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopSignals":
        for number in ASKED:
            self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyrefly: ignore[bad-argument-type]  # whatever stood there before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            if sys.stderr.isatty():
                os.write(2, b"\x1b[?25h\n")  # a live bar hides the cursor, and nobody is left to show it again
            os._exit(128 + number)
        self.asked = number

    @property
    def exit_code(self) -> int:
        """143 when pre-empted, 130 on Ctrl-C."""
        return 130 if self.asked == signal.SIGINT else 143

    def watch(self, items: Iterable[T]) -> Iterator[T]:
        """The items, until a stop is asked for."""
        for item in items:
            if self.asked is not None:
                raise Interrupted
            yield item
