"""`vitrail data clean`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Compute, Opening
from vitrail.reports.tables import show

if TYPE_CHECKING:
    from vitrail.api.evaluate import Measured
    from vitrail.reports.page import Section

PARTS: tuple[Literal["train", "test", "val"], ...] = ("train", "test", "val")
PICTURES = 60
"""Pictures of each page section, at most."""


@dataclass(frozen=True, kw_only=True)
class Clean(Compute, Opening):
    """Lists the labels that a model doubts most: where it is surest of another class. Nothing is moved or changed.

    A model believes the labels it was trained on, so doubts about those are few. Train on one half of the images and look
    at the other. A doubtful label may be right: look at the picture.

    examples:
      vitrail data clean runs/photos-1 ./photos
      vitrail data clean runs/photos-1 ./photos --most 200 --out doubtful.csv --html doubtful.html
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`; all parts are looked at."""
    most: int = 50
    """How many labels are listed."""
    out: Path | None = None
    """A CSV or JSON file for the list; without it the list is printed."""
    html: Path | None = None
    """Also write a page with the pictures here, one section for each pair of classes."""


def run_clean(words: Sequence[str]) -> int:
    asked = parse(Clean, words, command="data clean")

    from vitrail.api.evaluate import measure, table_doubts
    from vitrail.evaluation.embedding import every_part
    from vitrail.images.sources import open_data
    from vitrail.reports.page import write_page

    for path in (asked.out, asked.html):
        check_writable(path)
    splits = call(open_data, asked, spec=asked.data)
    found = [call(measure, asked, data=splits, split=part, say=say) for part in PARTS if part in every_part(splits)]
    table = table_doubts(found, asked.most)
    if asked.out is None:
        show(table, "table")
    else:
        table.write(asked.out)
        say(f"{len(table.rows):,} doubtful labels: {asked.out}")
    if asked.html:
        say(f"page: {write_page(asked.html, f'Doubtful labels of {asked.data}', sections(found, table.rows))}")
    return 0


def sections(parts: "Sequence[Measured]", rows: Sequence[tuple]) -> "list[Section]":
    """A gallery for each pair (label, answer), the most frequent first."""
    from vitrail.reports.page import Gallery, Picture

    places = {key: (found.source, row) for found in parts for row, key in enumerate(found.source.keys)}
    pairs: dict[tuple[str, str], list[Picture]] = {}
    for key, label, answer, sure, _ in rows:
        source, row = places[key]
        picture = Picture(source.picture(row), f"{answer} {sure:.0%}", key, good=False)
        pairs.setdefault((label, answer), []).append(picture)
    ordered = sorted(pairs.items(), key=lambda pair: -len(pair[1]))
    return [Gallery(f"Labelled {label}, seen as {answer}", some[:PICTURES]) for (label, answer), some in ordered]
