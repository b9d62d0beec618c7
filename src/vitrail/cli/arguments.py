"""A command's words, typed: a frozen dataclass per command, whose docstring is its help and ends with examples."""

import contextlib
import dataclasses
import inspect
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tyro
from rich.console import Console

from vitrail.errors import ConfigError, suggest
from vitrail.reports.tables import Column, Table

T = TypeVar("T")

RULE = "[─-]{3,}"
Switch = tyro.conf.FlagCreatePairsOff[bool]
"""An option that is on when it is typed."""


def parse(kind: type[T], words: Sequence[str], *, command: str, default: T | None = None, check: bool = True) -> T:
    """The words as `kind`. On `--help` tyro prints and raises SystemExit; words that mean nothing are a ConfigError.

    Values that do not go together raise the ConfigError of their config; without `check` they are let through.
    """
    if hasattr(kind, "format"):  # everywhere --json is enough
        words = [word for one in words for word in (("--format", one[2:]) if one in ("--json", "--csv") else (one,))]
    loose: Any = None if default is None else unchecked(default)
    options = {} if loose is None else {"default": loose}
    shape: Any = kind if loose is None else type(loose)
    with said_in_a_paragraph(command, asks_for_help=bool({"-h", "--help"} & set(words))):
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


@contextlib.contextmanager
def said_in_a_paragraph(command: str, *, asks_for_help: bool) -> Iterator[None]:
    """tyro draws a box around its refusals; here they are errors like any other."""
    heard, columns = io.StringIO(), os.environ.get("COLUMNS")
    if not asks_for_help:
        os.environ["COLUMNS"] = "1000"  # a box this wide breaks no word in two
    try:
        with contextlib.redirect_stderr(heard):
            yield
    except SystemExit as exit_:
        if exit_.code:
            raise refused(heard.getvalue(), command) from None
        raise
    finally:
        os.environ.pop("COLUMNS", None)
        os.environ.update({} if columns is None else {"COLUMNS": columns})
        sys.stderr.write("" if isinstance(sys.exception(), ConfigError) else heard.getvalue())


def refused(box: str, command: str) -> ConfigError:
    """What stands in tyro's box, in a sentence: what was wrong, above its first rule, and the option meant, below it."""
    lines = [line.strip(" │") for line in box.strip("\n").splitlines()][1:]  # without its title
    if lines and re.fullmatch(RULE, lines[0]):  # in ASCII the title has a line of its own
        lines = lines[1:]
    rule = next((number for number, line in enumerate(lines) if re.fullmatch(RULE, line)), len(lines))
    found, about = " ".join(lines[:rule]).strip(), [line for line in lines[rule:] if re.match(r"--\w", line)]
    near, help_ = "", f"see `vitrail {command} --help`"
    if found.startswith("Missing from"):
        found = "missing: " + ", ".join(line for line in lines[:rule] if re.fullmatch(r"[A-Z_]+|--.*", line))
    elif found.startswith("Unrecognized"):
        given = found.partition(": ")[2].split(",")[0]
        near, about = suggest(given, [line.split()[0].strip(",") for line in about]), []
    found = found.partition(" Got errors:")[0].rstrip(". ").removeprefix("Error parsing ")
    found = re.sub(r": no type matching .* instantiated from \[(.*)\]$", r" \1", found)
    allowed = re.sub(r"{None}\||{(?=\w+ )|}$", "", about[0]) if about else ""
    found = found[:1].lower() + found[1:] or box.strip()  # another box than is known here: as it is
    return ConfigError(found, allowed=allowed, next_step="; ".join(filter(None, (near, help_))))


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
