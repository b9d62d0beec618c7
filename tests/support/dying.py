"""Functions that end their own process, for tests of what runs side by side. Light, as each process imports them."""

import os
from pathlib import Path


def die_at(bad: int, number: int) -> int:
    """-number; at `bad` the process is gone, as after a kill."""
    if number == bad:
        os._exit(9)
    return -number


def die_once(mark: Path, number: int) -> int:
    """-number; the first time that it is not 0 the process is gone."""
    if number and not mark.exists():
        mark.touch()
        os._exit(9)
    return -number
