"""Compares two models on the same images: is the difference more than luck? (McNemar's test)

Only the images that one model gets right and the other wrong can tell them apart. A p-value of 0.03 says that two
equally good models would split those images so unevenly in 3 of 100 cases.

examples:
  vitrail compare runs/a runs/b ./photos
  vitrail compare runs/a vit-b16.npz digits --json
  vitrail compare runs/a runs/b ./photos --html compared.html
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Page, Show, Threads, options_of
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.reports.page import Section
    from vitrail.scores.statistics import McNemar


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("compare", __doc__, Show, Threads, Page), words, command="compare")

    from vitrail.api.evaluate import compare
    from vitrail.reports.page import write_page

    check_writable(asked.html)
    found = call(compare, asked, say=say)
    if asked.format == "json":
        print(json.dumps(facts(asked, found), indent=1))
    else:
        show(table(asked, found), asked.format)
        say(sentence(found))
        say(found.verdict(asked.first, asked.second))
    if asked.html:
        say(f"page: {write_page(asked.html, f'{asked.first} and {asked.second}', sections(asked, found))}")
    return 0


def facts(asked: Any, found: "McNemar") -> dict[str, Any]:
    low, high = found.interval
    return {"first": asked.first, "second": asked.second, "data": asked.data, **asdict(found)} | {
        "difference": found.difference,
        "difference_low": low,
        "difference_high": high,
        "verdict": found.verdict(asked.first, asked.second),
    }


def table(asked: Any, found: "McNemar") -> Table:
    columns = (Column("model"), Column("accuracy_%", "{:.2f}"), Column("right"), Column("only_this_one"))
    pairs = ((asked.first, found.only_first), (asked.second, found.only_second))
    rows = tuple((name, 100 * (found.both + own) / found.images, found.both + own, own) for name, own in pairs)
    return Table(columns, rows, f"{found.images:,} images of {asked.data}")


def sentence(found: "McNemar") -> str:
    low, high = (100 * edge for edge in found.interval)
    return (
        f"second - first: {100 * found.difference:+.2f} points (95 %: {low:+.2f} to {high:+.2f}); "
        f"McNemar p = {found.mid_p:.3g} (mid-p), {found.exact:.3g} (exact)"
    )


def sections(asked: Any, found: "McNemar") -> "list[Section]":
    """The page."""
    from vitrail.reports.page import Facts, TableSection, Text

    low, high = (100 * edge for edge in found.interval)
    facts = [
        ("Difference", f"{100 * found.difference:+.2f} points"),
        ("95 % interval", f"{low:+.2f} to {high:+.2f}"),
        ("p (mid-p)", f"{found.mid_p:.3g}"),
        ("p (exact)", f"{found.exact:.3g}"),
    ]
    return [
        Text("Verdict", found.verdict(asked.first, asked.second)),
        Facts("Second minus first", facts, style="tiles"),
        TableSection(
            "The same images",
            table(asked, found),
            note="Only images that one model gets right and the other wrong can tell them apart.",
        ),
    ]
