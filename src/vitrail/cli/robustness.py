"""Measures a model on corrupted images: noise, blur, contrast and compression at five severities, after ImageNet-C.

The images are corrupted here, at the size the model reads, the same way each time.

examples:
  vitrail robustness runs/photos-1 ./photos
  vitrail robustness runs/photos-1 ./photos --corruptions contrast,jpeg --severities 1 3 5 --csv
"""

from collections.abc import Sequence

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Names, Page, Show, Threads, options_of
from vitrail.reports.tables import Column, Table, show


def main(words: Sequence[str]) -> int:
    asked = parse(
        options_of("robustness", __doc__, Show, Threads, Page, corruptions=Names), words, command="robustness"
    )

    from vitrail.api.evaluate import robustness
    from vitrail.evaluation.robustness import mean_corrupted, sections
    from vitrail.images.findings import counted
    from vitrail.reports.page import write_page

    check_writable(asked.html)

    rows = call(robustness, asked, say=say)
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
    say(
        f"clean {rows[0].accuracy:.2%} · corrupted {mean_corrupted(rows):.2%}, the mean of {counted(len(rows) - 1, 'setting')}"
    )
    return 0
