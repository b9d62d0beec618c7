"""`vitrail models`."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from vitrail.cli.arguments import Switch, parse
from vitrail.errors import ConfigError, suggest
from vitrail.models import cost, zoo
from vitrail.recipes.request import fitted
from vitrail.reports.tables import Column, Output, Table, show
from vitrail.weights.published import PUBLISHED


@dataclass(frozen=True)
class Models:
    """Lists the models that `--model` and vitrail.build know, with their parameters and multiply-accumulates an image;
    and published checkpoints of them that can be read, with licence and accuracy.

    examples:
      vitrail models
      vitrail models "vit-*/16"
      vitrail models "vit-l*" --image 384 --classes 21843
      vitrail models --published --json
    """

    pattern: tyro.conf.Positional[str] = "*"
    """A name, or a pattern with * in it."""
    image: int = 224
    """Height and width in pixels."""
    classes: int = 1000
    published: Switch = False
    """Only the checkpoints."""
    format: Output = "table"
    """--json and --csv say the same."""


def main(words: Sequence[str]) -> int:
    asked = parse(Models, words, command="models")
    names = zoo.list_models(asked.pattern)
    if not names:
        raise ConfigError(
            f"no model matches {asked.pattern!r}",
            next_step=suggest(asked.pattern, zoo.list_models()) or "see `vitrail models`",
        )
    if not asked.published:
        columns = Column("name"), Column("family"), Column("parameters", "{:,}"), Column("GMAC", "{:.2f}")
        show(Table(columns, tuple(_row(name, asked) for name in names)), asked.format)
    checkpoints = _checkpoints(asked.pattern)
    if asked.published or (asked.format == "table" and checkpoints.rows):
        show(checkpoints, asked.format)
    return 0


def _checkpoints(pattern: str) -> Table:
    """Published files of the models that match."""
    columns = tuple(map(Column, ("checkpoint", "model", "trained on", "image", "ImageNet top-1", "licence", "origin")))
    rows = tuple(
        (one.name, one.model, one.data, one.image, one.top1, one.licence, one.origin)
        for one in PUBLISHED
        if fnmatch.fnmatchcase(one.model, pattern)
    )
    title = (
        "published checkpoints; top-1 after fine-tuning on ImageNet, as published (their files are not downloaded here)"
    )
    return Table(columns, rows, title)


def _row(name: str, asked: Models) -> tuple[str, str, int, float]:
    config = zoo.config(name)
    side = fitted(asked.image, config)
    config = zoo.config(name, image=(side, side), classes=asked.classes)
    return name, config.family, cost.count_parameters(config), cost.macs(config) / 1e9
