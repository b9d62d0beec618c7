"""`vitrail recipes`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from vitrail.cli.arguments import pairs, parse
from vitrail.cli.options import Show
from vitrail.reports.tables import Column, Table, show


@dataclass(frozen=True, kw_only=True)
class Recipes(Show):
    """Lists the recipes, or tells all about one: its command, its published result, and what differs from the original.

    examples:
      vitrail recipes
      vitrail recipes finetune
      vitrail recipes augreg:medium1-wd_0.03 --json      every value, as a run would store it
    """

    name: tyro.conf.Positional[str] = ""
    """A recipe, with or without a variant behind a colon."""


def main(words: Sequence[str]) -> int:
    asked = parse(Recipes, words, command="recipes")

    from vitrail.config import to_dict
    from vitrail.recipes import RECIPES, about, recipe_without_weights
    from vitrail.training.resume_rules import leaves

    if not asked.name:
        rows = tuple((name, about(name).partition("\n")[0]) for name in RECIPES)
        show(Table((Column("name"), Column("about")), rows), asked.format)
        return 0
    found = to_dict(recipe_without_weights(asked.name))  # or what is wrong with the name
    if asked.format == "json":
        print(json.dumps(found, indent=1))
        return 0
    print(about(asked.name.partition(":")[0]))
    show(pairs([(name, str(value)) for name, value in leaves(found)], "values"), asked.format)
    return 0
