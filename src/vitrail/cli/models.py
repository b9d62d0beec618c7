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
    """Lists the models that `--model` and vitrail.build know, with their parameters and multiply-accumulates an image.

    With --published it lists names that lead to weights on the Hugging Face hub, with licence and accuracy. A name works
    wherever weights do: --weights dinov2-s/14. Vitrail names the licence before the first download.

    examples:
      vitrail models
      vitrail models "vit-*/16"
      vitrail models "vit-l*" --size 384 --classes 21843
      vitrail models --published
      vitrail models "siglip2-*" --published --json
    """

    pattern: tyro.conf.Positional[str] = "*"
    """A name, or a pattern with * in it."""
    size: int = 224
    """Height and width in pixels; the nearest that a model's patches divide."""
    classes: int = 1000
    published: Switch = False
    """Names that lead to weights: `vitrail.load(NAME)`, `--weights NAME`."""


def main(words: Sequence[str]) -> int:
    asked = parse(Models, words, command="models")
    table = json.loads(importlib.resources.files("vitrail.models").joinpath("counts.json").read_text("utf-8"))
    if asked.published:
        show(_published(asked.pattern), asked.format)
        return 0
    if asked.size < 1:
        raise ConfigError(f"size = {asked.size}", allowed="1 pixel or more")
    names = [name for name in table if fnmatch.fnmatchcase(name, asked.pattern)]
    if not names:
        raise ConfigError(
            f"no model matches {asked.pattern!r}", next_step=suggest(asked.pattern, table) or "see `vitrail models`"
        )
    stored = (asked.size, asked.classes) == (Models.size, Models.classes)
    rows = tuple((name, *table[name]) if stored else _row(name, asked) for name in names)
    columns = Column("name"), Column("family"), Column("parameters", "{:,}"), Column("GMAC", "{:.2f}")
    show(Table(columns, rows), asked.format)
    if asked.format == "table":
        say("names that lead to weights: vitrail models --published")
    return 0


COLUMNS = ("name", "trained on", "image", "ImageNet top-1", "how", "licence", "texts", "where")


def _published(pattern: str) -> Table:
    """Names that lead to weights, and files that others publish elsewhere, of the names or models that match."""
    from vitrail.weights.published import PUBLISHED
    from vitrail.weights.published_file import published_checkpoints

    rows = [
        (name, one.data, one.image, one.top1, one.how, one.terms, "yes" if one.texts else "", f"hf:{one.hub}")
        for name, one in PUBLISHED.items()
        if fnmatch.fnmatchcase(name, pattern)
    ]
    for origin, one in published_checkpoints():
        if fnmatch.fnmatchcase(one.model, pattern):
            how, where = "fine-tuned" if one.top1 else "", f"a file of {origin}"
            rows.append((one.name, one.data, one.image, one.top1, how, one.licence, "", where))
    if not rows:
        hint = suggest(pattern, PUBLISHED) or "see `vitrail models --published`"
        raise ConfigError(f"no published weights match {pattern!r}", next_step=hint)
    title = (
        "published weights; accuracy in %, as published; with texts: `vitrail name` takes them; files are not fetched"
    )
    return Table(tuple(map(Column, COLUMNS)), tuple(rows), title)


def _row(name: str, asked: Models) -> tuple[str, str, int, float]:
    """Counted for another size or number of classes."""
    from vitrail.models import cost, zoo
    from vitrail.recipes.request import fit_side

    config = zoo.config(name)
    side = fit_side(asked.size, config)
    config = zoo.config(name, image=(side, side), classes=asked.classes)
    return name, config.family, cost.count_parameters(config), cost.macs(config) / 1e9
