"""From words to a Run: the recipe is found first, then every option is read with its values as defaults."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, Literal, TypeVar

import tyro

from vitrail.api.request import (
    Chosen,
    Classes,
    guess_run,
    name_leaves,
    open_run,
    refuse_derived,
    shorthands,
)
from vitrail.api.words import SHORT
from vitrail.cli.arguments import Switch, parse, squared
from vitrail.errors import ConfigError
from vitrail.recipes.request import read_pretrained
from vitrail.training.run import Run

HELP = ("-h", "--help")


@dataclass(frozen=True, kw_only=True)
class Settings(Run):
    """A Run whose data is named by position."""

    data: tyro.conf.Suppress[str] = ""
    fold: tyro.conf.Suppress[tuple[int, int] | None] = None
    rules: tyro.conf.Suppress[Literal[1, 2]] = 2


@dataclass(frozen=True)
class Asked:
    """The options that `train` and `plan` share."""

    data: tyro.conf.Positional[str] = ""
    """A folder with a folder per class (train/ val/ test/ inside or not), a folder of IDX files, or a named set."""
    model: str | None = None
    """A model by name, such as vit-ti/16; `vitrail models` lists them."""
    download: Switch = False
    """Fetch a named set, or one of the Hugging Face Hub (hf:owner/name), where it is not on this machine."""
    classes: Classes = "top"
    """Which folders are classes: those at the top, or with `leaf` each folder that holds images."""
    like: str | None = None
    """Take all settings from this run folder, or from a file run.json; options change single ones."""
    epochs: float | None = None
    """Passes over the images: the same as --length "N epochs"."""
    run: Annotated[Settings, tyro.conf.arg(name="")] = field(default_factory=Settings)


A = TypeVar("A", bound=Asked)


def understand(kind: type[A], words: Sequence[str], *, command: str) -> tuple[A, Chosen]:
    """All arguments, and the Run they ask for with its opened images.

    Two readings: the first, with the defaults of the right model family, finds data and recipe. The second has the
    recipe's own values as defaults, so that an override changes one field only and `--help` shows what would run.
    """
    words = spell_out(words)
    plain = [word for word in words if word not in HELP]
    refuse_derived({word.partition("=")[0].removeprefix("--"): word for word in plain})
    early = read_early(plain)
    guess = settings(guess_run(**early))
    first = parse(kind, plain, command=command, default=kind(run=guess), check=False)
    if not first.data and not early["like"]:
        if plain != list(words):
            parse(kind, words, command=command, default=kind(run=guess))
        raise ConfigError(
            "no images were named", next_step=f"try `vitrail {command} digits` or `vitrail {command} ./photos`"
        )
    chosen = open_run(
        first.data, classes=first.classes, **early, holdout=first.run.holdout, download=first.download,
        follow_links=first.run.follow_links, device=first.run.hardware.device,
        patch=getattr(first.run.model, "patch", None) if _value(plain, "--model.patch") else None,
    )  # fmt: skip
    asked = parse(kind, words, command=command, default=kind(data=chosen.run.data, run=settings(chosen.run)))
    return asked, chosen.with_run(finished(asked))


def read_early(words: Sequence[str]) -> dict[str, Any]:
    """The words that decide what the other options mean."""
    found: dict[str, Any] = {name: _value(words, f"--{name}") for name in ("recipe", "model", "weights", "like")}
    return {**found, "weights": read_pretrained(found["weights"]) if found["weights"] else None}


def finished(asked: Asked) -> Run:
    """The Run proper, with the shorthands laid on it."""
    run = Run(**{part.name: getattr(asked.run, part.name) for part in fields(Run)})
    run = replace(run, data=str(name_leaves(asked.data, asked.classes)))
    return replace(run, **shorthands(asked.epochs))


def settings(run: Run) -> Settings:
    return Settings(**{part.name: getattr(run, part.name) for part in fields(Run)})


def _value(words: Sequence[str], option: str) -> str | None:
    """The last value of `--option value` or `--option=value`."""
    values = [word.partition("=")[2] for word in words if word.startswith(option + "=")]
    values += [after for word, after in itertools.pairwise(words) if word == option]
    return values[-1] if values else None


def spell_out(words: Sequence[str]) -> list[str]:
    """Short options as the values they stand for: `--lr` is `--optim.lr`; `--size 64` is a square."""
    options = {f"--{short}": f"--{full.replace('_', '-')}" for short, full in SHORT.items()}
    found: list[str] = []
    for word in words:
        option, equals, value = word.partition("=")
        found += [options[option], *([value] if equals else [])] if option in options else [word]
    return squared(found, "--preprocess.size", "--model.patch")
