"""A command's words, typed: a frozen dataclass per command, whose docstring is its help and ends with examples."""

import dataclasses
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import tyro

from vitrail.api.words import hints_at_peers
from vitrail.errors import ConfigError, StorageError, suggest
from vitrail.reports.tables import Column, Table
from vitrail.reports.terminal import clean, clean_streams, console

T = TypeVar("T")
R = TypeVar("R")
Subcommand = Callable[[Sequence[str]], int]

PAIR = tuple[int, int] | None
"""Height and width."""
Switch = tyro.conf.FlagCreatePairsOff[bool]
"""An option that is on when it is typed."""


def parse(kind: type[T], words: Sequence[str], *, command: str, default: T | None = None, check: bool = True) -> T:
    """The words as `kind`. On `--help`, and on words that mean nothing, tyro prints and raises SystemExit (0 and 2).

    Values that do not go together raise the ConfigError of their config; without `check` they are let through.
    """
    if hasattr(kind, "format"):  # everywhere --json is enough
        words = [word for one in words for word in (("--format", one[2:]) if one in ("--json", "--csv") else (one,))]
    loose: Any = None if default is None else unchecked(default)
    options = {} if loose is None else {"default": loose}
    shape: Any = kind if loose is None else type(loose)
    if any(part.name == "size" and PAIR in (part.type, *get_args(part.type)) for part in dataclasses.fields(shape)):
        words = squared(words, "--size")
    try:
        with clean_streams(colours=True):
            found = tyro.cli(
                shape,
                prog=f"vitrail {command}",
                description=inspect.getdoc(kind),
                args=list(words),
                # the family of a model is part of its default, never a subcommand that would eat the words after it
                config=(tyro.conf.AvoidSubcommands, tyro.conf.PositionalMetavarFromFieldName),
                **options,
            )
    except SystemExit as exit_:
        if exit_.code:
            for hint in hints_at_peers(words):
                print(hint, file=sys.stderr)
        raise
    if getattr(found, "threads", 0):
        from vitrail.hardware import threads

        threads(getattr(found, "threads", 0))
    return found if default is None or not check else checked(found, default)


def squared(words: Sequence[str], *options: str) -> list[str]:
    """One number after an option, the side of a square, twice; 64x48 as two numbers."""
    found: list[str] = []
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option in options and equals:
            return squared([*words[:at], option, value, *words[at + 1 :]], *options)
        if at and words[at - 1] in options and (sides := re.fullmatch(r"(\d+)(?:[x×](\d+))?", word)):
            second = sides[2] or ("" if words[at + 1 : at + 2] and words[at + 1].isdigit() else sides[1])
            found += [sides[1], second] if second else [word]
        else:
            found.append(word)
    return found


def call(function: Callable[..., R], asked: Any, **more: Any) -> R:
    """Calls a function of the package with each field of the command that it has a parameter for."""
    known = inspect.signature(function).parameters
    values = {part.name: getattr(asked, part.name) for part in dataclasses.fields(asked) if part.name in known}
    return function(**{**values, **more})


def check_writable(path: Path | None) -> None:
    """Tries a name for results before the work. Raises StorageError."""
    if path is None:
        return
    there = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK):
        raise StorageError(f"{path} cannot be written", next_step="choose another name for the result")


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
    console(highlight=False).print(clean(text), soft_wrap=True)


def run_group(name: str, about: str, commands: Mapping[str, Subcommand], words: Sequence[str]) -> int:
    """Runs the sub-command that the first word names. Raises ConfigError for another.

    The help is made of the docstrings: `about` ends with examples, and each function begins with a sentence.
    """
    if not words or words[0] in ("-h", "--help"):
        width = max(map(len, commands))
        first = {one: (inspect.getdoc(run) or "").partition("\n")[0] for one, run in commands.items()}
        table = "\n".join(f"  {one:<{width}}  {about}" for one, about in first.items())
        text, _, examples = about.strip().partition("\n\nexamples:\n")
        print(f"usage: vitrail {name} {'|'.join(commands)} …\n\n{text}\n\n{table}\n\nexamples:\n{examples}")
        return 0
    if words[0] not in commands:
        raise ConfigError(
            f"vitrail {name} has no command {words[0]!r}",
            allowed=", ".join(commands),
            next_step=suggest(words[0], commands),
        )
    return commands[words[0]](words[1:])
