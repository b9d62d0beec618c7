"""`vitrail similar`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitrail.cli.arguments import Switch, parse, say
from vitrail.errors import ConfigError, DataError, suggest
from vitrail.evaluation.neighbours import groups, near_duplicates, nearest
from vitrail.evaluation.store import SPLITS, Kept, read
from vitrail.reports.tables import Column, Table, show


@dataclass(frozen=True)
class Similar:
    """Finds the images most similar to one, or all near-duplicates, in features kept by `vitrail embed`.

    examples:
      vitrail similar features.safetensors --of birds/eagle.png
      vitrail similar features.safetensors --duplicates 0.97 --json
    """

    features: tyro.conf.Positional[Path]
    of: str | None = None
    """The key of an image in the file, or the end of it."""
    k: int = 10
    duplicates: float | None = None
    """List pairs at least so similar, as a cosine; without --of, 0.95."""
    json: Switch = False


def main(words: Sequence[str]) -> int:
    asked = parse(Similar, words, command="similar")
    if asked.k < 1:
        raise ConfigError(f"--k {asked.k}", allowed="1 or more")
    kept = read(asked.features)
    found = (
        to_one(kept, asked.of, asked.k)
        if asked.of
        else duplicates(kept, 0.95 if asked.duplicates is None else asked.duplicates)
    )
    show(found, "json" if asked.json else "table")
    return 0


def to_one(kept: Kept, key: str, k: int) -> Table:
    row = row_of(kept, key)
    near = nearest(kept.features[row : row + 1], kept.features, k=min(k + 1, len(kept.keys)))
    rows = [
        (kept.keys[index], name_of(kept, index), similarity)
        for index, similarity in zip(near.index[0].tolist(), near.similarity[0].tolist(), strict=True)
        if index != row
    ]
    return Table(
        (Column("image"), Column("class"), Column("cosine", "{:.4f}")),
        tuple(rows[:k]),
        f"most similar to {kept.keys[row]}",
    )


def duplicates(kept: Kept, threshold: float) -> Table:
    pairs = near_duplicates(kept.features, threshold=threshold)
    joined = groups(pairs)
    splits = [SPLITS[index] for index in kept.splits.tolist()]
    leaks = sum(splits[pair.first] != splits[pair.second] for pair in pairs)
    say(f"{len(pairs):,} pairs in {len(joined):,} groups; {leaks:,} pairs lie across train and test")
    columns = ("first", "first_split", "first_class", "second", "second_split", "second_class")
    rows = [
        (
            *(value for i in (pair.first, pair.second) for value in (kept.keys[i], splits[i], name_of(kept, i))),
            pair.similarity,
        )
        for pair in pairs
    ]
    return Table(
        (*map(Column, columns), Column("cosine", "{:.4f}")),
        tuple(rows),
        f"near-duplicates, cosine at least {threshold:g}",
    )


def row_of(kept: Kept, key: str) -> int:
    exact = [index for index, name in enumerate(kept.keys) if name == key]
    found = exact or [index for index, name in enumerate(kept.keys) if name.endswith(key)]
    if len(found) != 1:
        hint = suggest(key, kept.keys[:10_000]) if not found else ", ".join(kept.keys[index] for index in found[:5])
        raise DataError(f"{len(found)} images are called {key!r}", allowed="the key of one image", next_step=hint)
    return found[0]


def name_of(kept: Kept, index: int) -> str | None:
    label = int(kept.labels[index])
    return kept.about.classes[label] if 0 <= label < len(kept.about.classes) else None
