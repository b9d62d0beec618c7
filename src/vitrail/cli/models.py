"""`vitrail models`."""

import fnmatch
import importlib.resources
import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from vitrail.cli.arguments import Switch, parse, say
from vitrail.cli.options import Show
from vitrail.errors import ConfigError, suggest
from vitrail.reports.tables import Column, Table, show


@dataclass(frozen=True, kw_only=True)
class Models(Show):
    """Lists the models that `--model` and vitrail.build know, with their parameters and multiply-accumulates an image;
    and published checkpoints of them that can be read, with licence and accuracy.

    examples:
      vitrail models
      vitrail models "vit-*/16"
      vitrail models "vit-l*" --size 384 --classes 21843
      vitrail models --published --json
    """

    pattern: tyro.conf.Positional[str] = "*"
    """A name, or a pattern with * in it."""
    size: int = 224
    """Height and width in pixels."""
    classes: int = 1000
    published: Switch = False
    """Only the checkpoints."""


def main(words: Sequence[str]) -> int:
    asked = parse(Models, words, command="models")
    table = json.loads(importlib.resources.files("vitrail.models").joinpath("counts.json").read_text("utf-8"))
    names = [name for name in table if fnmatch.fnmatchcase(name, asked.pattern)]
    if not names:
        raise ConfigError(
            f"no model matches {asked.pattern!r}", next_step=suggest(asked.pattern, table) or "see `vitrail models`"
        )
    if asked.published:
        show(_checkpoints(asked.pattern), asked.format)
        return 0
    stored = (asked.size, asked.classes) == (Models.size, Models.classes)
    rows = tuple((name, *table[name]) if stored else _row(name, asked) for name in names)
    columns = Column("name"), Column("family"), Column("parameters", "{:,}"), Column("GMAC", "{:.2f}")
    show(Table(columns, rows), asked.format)
    if asked.format == "table":
        say("published checkpoints of these: vitrail models --published")
    return 0


def _checkpoints(pattern: str) -> Table:
    """Published files of the models that match."""
    from vitrail.weights.published_file import published_checkpoints

    columns = tuple(map(Column, ("checkpoint", "model", "trained on", "image", "ImageNet top-1", "licence", "origin")))
    rows = tuple(
        (one.name, one.model, one.data, one.image, one.top1, one.licence, origin)
        for origin, one in published_checkpoints()
        if fnmatch.fnmatchcase(one.model, pattern)
    )
    title = (
        "published checkpoints; top-1 after fine-tuning on ImageNet, as published (their files are not downloaded here)"
    )
    return Table(columns, rows, title)


def _row(name: str, asked: Models) -> tuple[str, str, int, float]:
    """Counted for another size or number of classes."""
    from vitrail.models import cost, zoo
    from vitrail.recipes.request import fit_side

    config = zoo.config(name)
    side = fit_side(asked.size, config)
    config = zoo.config(name, image=(side, side), classes=asked.classes)
    return name, config.family, cost.count_parameters(config), cost.macs(config) / 1e9
