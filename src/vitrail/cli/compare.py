"""`vitrail compare`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import tyro

from vitrail.cli.arguments import parse, say
from vitrail.cli.options import Compute, Part, Show
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.scores.statistics import McNemar


@dataclass(frozen=True, kw_only=True)
class Compare(Compute, Part, Show):
    """Compares two models on the same images: is the difference more than luck? (McNemar's test)

    Only the images that one model gets right and the other wrong can tell them apart. A p-value of 0.03 says that two
    equally good models would split those images so unevenly in 3 of 100 cases.

    examples:
      vitrail compare runs/a runs/b ./photos
      vitrail compare runs/a vit-b16.npz digits --json
    """

    first: tyro.conf.Positional[str]
    second: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str]
    """Labelled images; those that either model was trained on are left out."""


def main(words: Sequence[str]) -> int:
    asked = parse(Compare, words, command="compare")

    from vitrail.api.evaluate import compare

    found = compare(
        asked.first, asked.second, asked.data, split=asked.split, batch=asked.batch, device=asked.device,
        precision=asked.precision, workers=asked.workers, download=asked.download, say=say,
    )  # fmt: skip
    if asked.format == "json":
        print(json.dumps(facts(asked, found), indent=1))
    else:
        show(table(asked, found), asked.format)
        say(sentence(found))
    return 0


def facts(asked: Compare, found: "McNemar") -> dict[str, Any]:
    low, high = found.interval
    return {"first": asked.first, "second": asked.second, "data": asked.data, **asdict(found)} | {
        "difference": found.difference,
        "difference_low": low,
        "difference_high": high,
    }


def table(asked: Compare, found: "McNemar") -> Table:
    columns = (Column("model"), Column("accuracy_%", "{:.2f}"), Column("right"), Column("only_this_one"))
    rows = [
        (
            asked.first,
            100 * (found.both + found.only_first) / found.images,
            found.both + found.only_first,
            found.only_first,
        ),
        (
            asked.second,
            100 * (found.both + found.only_second) / found.images,
            found.both + found.only_second,
            found.only_second,
        ),
    ]
    return Table(columns, tuple(rows), f"{found.images:,} images of {asked.data}")


def sentence(found: "McNemar") -> str:
    low, high = (100 * edge for edge in found.interval)
    return (
        f"second - first: {100 * found.difference:+.2f} points (95 %: {low:+.2f} to {high:+.2f}); "
        f"McNemar p = {found.mid_p:.3g} (mid-p), {found.exact:.3g} (exact)"
    )
