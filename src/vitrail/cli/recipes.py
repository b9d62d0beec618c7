"""`vitrail recipes`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from vitrail.cli.arguments import Switch, parse
from vitrail.config import to_dict
from vitrail.recipes import RECIPES, about, recipe
from vitrail.reports.tables import Column, Table, show


@dataclass(frozen=True)
class Recipes:
    """Lists the recipes, or tells all about one: its command, its published result, and what differs from the original.

    examples:
      vitrail recipes
      vitrail recipes finetune
      vitrail recipes augreg:medium1-wd_0.03 --json      every value, as a run would store it
    """

    name: tyro.conf.Positional[str] = ""
    """A recipe, with or without a variant behind a colon."""
    json: Switch = False
    """Every value of the recipe, as JSON."""


def main(words: Sequence[str]) -> int:
    asked = parse(Recipes, words, command="recipes")
    if not asked.name:
        rows = tuple((name, about(name).partition("\n")[0]) for name in RECIPES)
        show(Table((Column("name"), Column("about")), rows), "json" if asked.json else "table")
        return 0
    found = recipe(asked.name)  # or what is wrong with the name
    print(json.dumps(to_dict(found), indent=1) if asked.json else about(asked.name.partition(":")[0]))
    return 0
