"""`vitrail robustness`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitrail.cli.arguments import call, check_writable, parse, say, split_names
from vitrail.cli.options import Part, Runtime, Show
from vitrail.reports.tables import Column, Table, show


@dataclass(frozen=True, kw_only=True)
class Robust(Runtime, Part, Show):
    """Measures a model on corrupted images: noise, blur, contrast and compression at five severities, after ImageNet-C.

    The images are corrupted here, at the size the model reads, the same way each time.

    examples:
      vitrail robustness runs/photos-1 ./photos
      vitrail robustness runs/photos-1 ./photos --corruptions contrast,jpeg --severities 1 3 5 --csv
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str]
    """Labelled images; those that the model was trained on are left out."""
    corruptions: str = ""
    """Names with commas between; all twelve by default."""
    severities: tuple[int, ...] = (1, 2, 3, 4, 5)
    seed: int = 0
    html: Path | None = None
    """Also write a page with a curve for each corruption here."""


def main(words: Sequence[str]) -> int:
    asked = parse(Robust, words, command="robustness")

    from vitrail.api.evaluate import robustness
    from vitrail.evaluation.corruptions import CORRUPTIONS
    from vitrail.evaluation.robustness import mean_corrupted, sections
    from vitrail.reports.page import write_page

    check_writable(asked.html)

    chosen = split_names(asked.corruptions) or list(CORRUPTIONS)
    rows = call(robustness, asked, corruptions=chosen, say=say)
    columns = ("accuracy_%", "low", "high")
    cells = tuple(
        (row.corruption, row.severity, *(100 * value for value in (row.accuracy, *row.interval))) for row in rows
    )
    table = Table(
        (Column("corruption"), Column("severity"), *(Column(name, "{:.2f}") for name in columns)), cells, asked.model
    )
    show(table, asked.format)
    if asked.html:
        page = write_page(asked.html, f"{asked.model} on corrupted images", sections(rows, table))
        say(f"page: {page}")
    say(f"clean {rows[0].accuracy:.2%} · corrupted {mean_corrupted(rows):.2%}, the mean of {len(rows) - 1} settings")
    return 0
