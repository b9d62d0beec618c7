"""A command's words, typed: a frozen dataclass per command, whose docstring is its help and ends with examples."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console

from vitrail.reports.tables import Column, Table

T = TypeVar("T")

Switch = tyro.conf.FlagCreatePairsOff[bool]
"""An option that is on when it is typed."""


def parse(kind: type[T], words: Sequence[str], *, command: str, default: T | None = None, check: bool = True) -> T:
    """The words as `kind`. On `--help` and on words that mean nothing tyro prints and raises SystemExit.

    Values that do not go together raise the ConfigError of their config; without `check` they are let through.
    """
    loose: Any = None if default is None else unchecked(default)
    options = {} if loose is None else {"default": loose}
    shape: Any = kind if loose is None else type(loose)
    found = tyro.cli(
        shape,
        prog=f"vitrail {command}",
        description=inspect.getdoc(kind),
        args=list(words),
        # the family of a model is part of its default, never a subcommand that would eat the words after it
        config=(tyro.conf.AvoidSubcommands, tyro.conf.PositionalMetavarFromFieldName),
        **options,
    )
    return found if default is None or not check else checked(found, default)


def unchecked(config: T) -> T:
    """The same values in classes that check nothing: tyro would show a failed check as a mistake of its own."""
    if not dataclasses.is_dataclass(config):
        return config
    kind = type(config)
    same = {name: getattr(kind, name) for name in ("__doc__", "__module__", "__qualname__")}
    loose = type(kind.__name__, (kind,), {**same, "__post_init__": lambda self: None})
    return loose(**{part.name: unchecked(getattr(config, part.name)) for part in dataclasses.fields(config)})


def checked(config: T, like: T) -> T:
    """The values in the classes of `like` again, which check them."""
    if not dataclasses.is_dataclass(like):
        return config
    names = [part.name for part in dataclasses.fields(like)]
    return type(like)(**{name: checked(getattr(config, name), getattr(like, name)) for name in names})


def pairs(rows: Sequence[tuple[str, Any]], title: str = "") -> Table:
    """Two columns without much ado: what, and how much."""
    return Table((Column("what"), Column("value")), tuple(rows), title)


def say(text: str = "") -> None:
    """A sentence for the person, on stderr: stdout belongs to the result."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)
