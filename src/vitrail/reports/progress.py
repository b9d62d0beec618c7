"""How far it is: a live bar on a terminal, plain lines elsewhere; on stderr, so that stdout stays clean for results."""

import math
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console, RenderableType
from rich.file_proxy import FileProxy
from rich.progress import BarColumn, SpinnerColumn, TextColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from vitrail.reports.terminal import CleanStream, clean, printable
from vitrail.reports.terminal import console as open_console

T = TypeVar("T")

FIRST_LINE = 2.0  # seconds; then a line every EVERY seconds
EVERY = 10.0

FORMATS = {
    "epoch": "epoch {:.1f}",
    "loss": "loss {:.4f}",
    "accuracy": "accuracy {:.1%}",
    "held_out": "held-out {:.2%}",
    "validation": "validation {:.2%}",
    "lr": "lr {:.2e}",
    "images_per_s": "{:,.0f} img/s",
    "peak_share": "{:.0%} of peak",
}
"""How the numbers of `update` are shown; a name that is not here is shown as "name 0.123"."""


class Progress:
    """`with progress(total, title) as bar: bar.update(step, loss=…)`. However it ends, the screen is tidy."""

    def __init__(self, total: int, title: str, *, done: int = 0) -> None:
        self.total, self.title, self.done = total, title, done
        self.numbers: dict[str, Any] = {}
        self._began_at, self._clock = done, time.monotonic()
        self.work = 0.0
        """Share of this session's work that is done, where steps differ in their cost."""

    def __enter__(self) -> "Progress":
        self._clock = time.monotonic()
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def update(self, done: int, **numbers: Any) -> None:
        """`done` of `total` is finished; a number stays until the next one, None removes it."""
        self.done = done
        self.numbers |= numbers

    def note(self, text: str) -> None:
        """A line that stays, above the bar."""

    def track(self, items: Iterable[T], total: int, title: str) -> Iterator[T]:
        """The items, with their own progress under this one, gone when they end."""
        yield from items

    def left(self) -> str:
        """Time left at this run's mean pace, pauses for evaluation and checkpoints included: "1:23 left"."""
        finished = self.work or (self.done - self._began_at) / max(1, self.total - self._began_at)
        if finished <= 0:
            return ""
        seconds = (time.monotonic() - self._clock) / finished * (1 - finished)
        return f"{duration(seconds)} left"


class Bar(Progress):
    """Two live lines: title, bar, count and time left; under it the numbers."""

    def __init__(self, total: int, title: str, *, done: int = 0, console: Console | None = None) -> None:
        super().__init__(total, title, done=done)
        self._rich = _TwoLines(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[left]}", style="progress.remaining"),
            console=console or open_console(),
            refresh_per_second=4,  # a thread that shares the cores with the training
            redirect_stdout=sys.stdout.isatty(),  # else what is printed for a pipe would land on stderr
        )
        self._rich.below = self._numbers_line
        self._task = self._rich.add_task(printable(title, keep=""), total=total, completed=done, left="")

    def __enter__(self) -> "Progress":
        self._rich.start()
        for name in ("stdout", "stderr"):  # what others print meanwhile; rich would obey its escapes
            if isinstance(stream := getattr(sys, name), FileProxy):
                setattr(sys, name, CleanStream(stream))
        return super().__enter__()

    def __exit__(self, *exception: object) -> None:
        self._rich.update(self._task, left=duration(time.monotonic() - self._clock))
        self._rich.stop()

    def update(self, done: int, **numbers: Any) -> None:
        super().update(done, **numbers)
        self._rich.update(self._task, completed=done, left=self.left())

    def note(self, text: str) -> None:
        self._rich.console.print(clean(text), highlight=False, soft_wrap=True)

    def track(self, items: Iterable[T], total: int, title: str) -> Iterator[T]:
        task = self._rich.add_task(printable(title, keep=""), total=total, left="")
        try:
            for item in items:
                yield item
                self._rich.advance(task)
        finally:
            self._rich.remove_task(task)

    def _numbers_line(self) -> Text:
        return Text("  " + printable(show(self.numbers), keep=""), no_wrap=True, overflow="ellipsis")


class Lines(Progress):
    """One line at the start, one after two seconds, one every ten, and the last."""

    def __init__(self, total: int, title: str, *, done: int = 0, console: Console | None = None) -> None:
        super().__init__(total, title, done=done)
        self._console = console or open_console()
        self._next = math.inf

    def __enter__(self) -> "Progress":
        super().__enter__()
        self._write(self._line())
        self._next = self._clock + FIRST_LINE
        return self

    def __exit__(self, *exception: object) -> None:
        self._write(self._line(duration(time.monotonic() - self._clock)))

    def update(self, done: int, **numbers: Any) -> None:
        super().update(done, **numbers)
        if time.monotonic() >= self._next and done < self.total:  # the last line comes at the end
            self._write(self._line(self.left()))
            self._next = time.monotonic() + EVERY

    def note(self, text: str) -> None:
        self._write(text)

    def track(self, items: Iterable[T], total: int, title: str) -> Iterator[T]:
        quiet = Lines(total, title, console=self._console)  # never entered: it speaks only when it takes long
        quiet._next = quiet._clock + EVERY
        for done, item in enumerate(items, start=1):
            yield item
            quiet.update(done)

    def _line(self, last: str = "") -> str:
        parts = [f"{self.title} {self.done:,}/{self.total:,}", show(self.numbers), last]
        return " · ".join(part for part in parts if part)

    def _write(self, text: str) -> None:
        self._console.print(clean(text), highlight=False, soft_wrap=True)


class _TwoLines(RichProgress):
    """rich's bars, and one more line under them while there is something to say."""

    below: Any = None

    def get_renderables(self) -> Iterable[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        if self.below is not None and (line := self.below()).plain.strip():
            yield line


def progress(total: int, title: str, *, done: int = 0, quiet: bool = False) -> Progress:
    """A live bar when stderr is a terminal that can move its cursor, else lines. `done`: where a resumed run begins."""
    kind = Progress if quiet else Bar if _live() else Lines
    return kind(total, title, done=done)


def track(items: Iterable[T], total: int, title: str) -> Iterator[T]:
    """The items of an evaluation or prediction, with progress; `total` counts items."""
    with progress(total, title) as bar:
        for done, item in enumerate(items, start=1):
            yield item
            bar.update(done)


def show(numbers: dict[str, Any]) -> str:
    """The numbers as one line: "loss 0.1234 · accuracy 97.1% · 12,345 img/s · 31% of peak"."""
    shown = {name: float(value) for name, value in numbers.items() if value is not None}
    return " · ".join(
        FORMATS.get(name, name.replace("_", " ") + " {:.4g}").format(value) for name, value in shown.items()
    )


def duration(seconds: float) -> str:
    """Seconds as "0:07", "12:34" or "3:02:01"."""
    minutes, second = divmod(round(max(seconds, 0.0)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _live() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
