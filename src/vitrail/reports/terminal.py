"""The one door to people's eyes: a stranger's text as a terminal may show it and a spreadsheet may hold it.

Names of classes, files and runs may hold anything: sequences that steer a terminal, marks that turn the direction of
reading, formulas. `clean_streams` guards all that a command prints, `console` gives rich text that is clean already.
"""

import contextlib
import re
import sys
import unicodedata
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # rich costs a command that fails a tenth of a second
    from rich.console import Console
    from rich.text import Text

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")


def printable(text: str, *, keep: str = "\n\t") -> str:
    r"""The text with an escape, such as `\u202e`, for all that is no letter, mark or space; `keep` stays.

    Escapes are those of JSON, so that printed JSON keeps its meaning.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() or letter in keep else _escape(letter) for letter in text)


def _escape(letter: str) -> str:
    if unicodedata.category(letter) == "Zs":
        return letter
    units = letter.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))


def safe_cell(value: Any) -> Any:
    """A cell of a CSV file: an apostrophe before text that a spreadsheet would run as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


class CleanStream:
    """A text stream that shows a stranger's control characters as escapes; with `colours`, colours stay."""

    def __init__(self, raw: Any, *, colours: bool = False) -> None:
        self.raw, self._colours = raw, colours

    def write(self, text: str) -> int:
        start = "\r" if text.startswith("\r") else ""  # a line of progress that is written again
        parts = _COLOURS.split(text[len(start) :]) if self._colours else [text[len(start) :]]
        self.raw.write(start + "".join(part if at % 2 else printable(part) for at, part in enumerate(parts)))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


def raw(stream: Any) -> Any:
    """The stream behind a clean one: for text that is clean already, and colours."""
    return stream.raw if isinstance(stream, CleanStream) else stream


@contextlib.contextmanager
def clean_streams(*, colours: bool = False) -> Generator[None]:
    """Inside, whatever is printed is printable. With `colours`, for a command's help, colours stay."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (CleanStream(raw(stream), colours=colours) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(file: Any = None, **options: Any) -> "Console":
    """A rich console on `file` (stderr). Give it `clean` text only."""
    from rich.console import Console

    return Console(file=raw(file or sys.stderr), **options)


def clean(text: str, *, keep: str = "\n\t") -> "Text":
    """Text for rich: never read as markup, and printable."""
    from rich.text import Text

    return Text(printable(text, keep=keep))
