"""Finds the images most similar to one, or pairs that are nearly the same, in features kept by `vitrail embed`.

Without --of the pairs above a cosine of 0.95 are listed that have no nearer neighbour. Fine-tuned features are alike
within a class: look at the pictures before you delete one.

examples:
  vitrail similar features.safetensors --of birds/eagle.png
  vitrail similar features.safetensors --of ./other.jpg
  vitrail similar features.safetensors --duplicates 0.97 --json
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.arguments import parse, say
from vitrail.cli.options import Show, options_of
from vitrail.errors import ConfigError
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.evaluation.feature_table import FeatureTable

SHOWN = 20
"""Pairs on the screen; --json has all."""


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """One image, or pairs."""

    of: str | None = None
    """The key of an image in the file, or the end of it; or a new image file."""
    duplicates: float | None = None
    """List every pair at least so similar, as a cosine."""


def main(words: Sequence[str]) -> int:
    asked = parse(
        options_of("similar", __doc__, Show, Pairs, positional=["features"], features=Path), words, command="similar"
    )

    from vitrail.evaluation.store import read

    if asked.of is not None and asked.duplicates is not None:
        raise ConfigError(f"--of {asked.of} and --duplicates {asked.duplicates:g} together", allowed="one of them")
    kept = read(asked.features)
    found = pairs(kept, asked) if asked.of is None else most_similar(kept, asked)
    show(found, asked.format)
    return 0


def most_similar(kept: "FeatureTable", asked: Any) -> Table:
    from vitrail.api.similar import similar

    assert asked.of is not None
    rows = {key: row for row, key in enumerate(kept.keys)}
    near = similar(kept, asked.of, k=asked.k, model=asked.model)
    cells = tuple((key, name_of(kept, rows[key]), cosine) for key, cosine in near)
    columns = (Column("image"), Column("class"), Column("cosine", "{:.4f}"))
    return Table(columns, cells, f"most similar to {asked.of}")


def pairs(kept: "FeatureTable", asked: Any) -> Table:
    from vitrail.api.similar import duplicates
    from vitrail.evaluation.feature_table import SPLITS
    from vitrail.evaluation.neighbours import groups, typical_cosine
    from vitrail.images.findings import counted

    found = duplicates(kept, threshold=asked.duplicates)
    splits = [SPLITS[index] for index in kept.splits.tolist()]
    across = sum(splits[pair.first] != splits[pair.second] for pair in found)
    shared = f"{counted(len(found), 'pair')} in {counted(len(groups(found)), 'group')}"
    say(f"{shared}; across train and test: {counted(across, 'pair')}")
    say(f"two images of these features have a median cosine of {typical_cosine(kept.features):.2f}")
    shown = found if asked.format != "table" else found[:SHOWN]
    if len(shown) < len(found):
        say(f"the {SHOWN} most similar pairs are shown; --json lists all")
    columns = ("first", "first_split", "first_class", "second", "second_split", "second_class")
    rows = [
        (
            *(value for i in (pair.first, pair.second) for value in (kept.keys[i], splits[i], name_of(kept, i))),
            pair.similarity,
        )
        for pair in shown
    ]
    what = "nearest pairs above 0.95" if asked.duplicates is None else f"pairs, cosine at least {asked.duplicates:g}"
    return Table((*map(Column, columns), Column("cosine", "{:.4f}")), tuple(rows), what)


def name_of(kept: "FeatureTable", index: int) -> str | None:
    label = int(kept.labels[index])
    return kept.about.classes[label] if 0 <= label < len(kept.about.classes) else None
