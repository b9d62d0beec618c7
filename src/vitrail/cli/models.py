"""`vitrail models`."""

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from vitrail.cli.arguments import parse
from vitrail.errors import ConfigError, suggest
from vitrail.models import cost, zoo
from vitrail.recipes.given import fitted
from vitrail.reports.tables import Column, Output, Table, show


@dataclass(frozen=True)
class Models:
    """Lists the models that `--model` and vitrail.build know, with their parameters and multiply-accumulates an image.

    examples:
      vitrail models
      vitrail models "vit-*/16"
      vitrail models "vit-l*" --image 384 --classes 21843
    """

    pattern: tyro.conf.Positional[str] = "*"
    """A name, or a pattern with * in it."""
    image: int = 224
    """Height and width in pixels."""
    classes: int = 1000
    format: Output = "table"


def main(words: Sequence[str]) -> int:
    asked = parse(Models, words, command="models")
    names = zoo.names(asked.pattern)
    if not names:
        raise ConfigError(
            f"no model matches {asked.pattern!r}",
            next_step=suggest(asked.pattern, zoo.names()) or "see `vitrail models`",
        )
    columns = Column("name"), Column("family"), Column("parameters", "{:,}"), Column("GMAC", "{:.2f}")
    show(Table(columns, tuple(_row(name, asked) for name in names)), asked.format)
    return 0


def _row(name: str, asked: Models) -> tuple[str, str, int, float]:
    config = zoo.config(name)
    side = fitted(asked.image, config)
    config = zoo.config(name, image=(side, side), classes=asked.classes)
    return name, config.family, cost.parameters(config), cost.macs(config) / 1e9
