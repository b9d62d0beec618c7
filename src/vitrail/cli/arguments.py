"""A command's words, typed: a frozen dataclass per command, whose docstring is its help and ends with examples."""

import inspect
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console

from vitrail.reports.tables import Column, Output, Table, show

T = TypeVar("T")

Switch = tyro.conf.FlagCreatePairsOff[bool]
"""An option that is on when it is typed."""
Words = tyro.conf.UseAppendAction[tuple[str, ...]]


def parse(kind: type[T], words: Sequence[str], *, command: str, default: T | None = None) -> T:
    """The words as `kind`. On `--help` and on words that mean nothing tyro prints and raises SystemExit."""
    return tyro.cli(
        kind,
        prog=f"vitrail {command}",
        description=inspect.getdoc(kind),
        args=list(words),
        # the family of a model is part of its default, never a subcommand that would eat the words after it
        config=(tyro.conf.AvoidSubcommands, tyro.conf.PositionalMetavarFromFieldName),
        **({} if default is None else {"default": default}),
    )


def pairs(rows: Sequence[tuple[str, Any]], title: str = "") -> Table:
    """Two columns without much ado: what, and how much."""
    return Table((Column("what"), Column("value")), tuple(rows), title)


def say(text: str = "") -> None:
    """A sentence for the person, on stderr: stdout belongs to the result."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def write(table: Table, output: Output) -> None:
    show(table, output, sys.stdout)
