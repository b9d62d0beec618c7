"""`vitrail run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vitrail.cli.arguments import pairs, parse
from vitrail.errors import DataError
from vitrail.reports.tables import show
from vitrail.train.ledger import verify


@dataclass(frozen=True)
class RunCommand:
    """Checks a run folder.

    `verify` computes from data and seed which samples each step must have learnt from, and compares every line of the log.

    examples:
      vitrail run verify runs/digits-1
    """

    action: tyro.conf.Positional[Literal["verify"]]
    folder: tyro.conf.Positional[Path]
    """A run folder."""


def main(words: Sequence[str]) -> int:
    asked = parse(RunCommand, words, command="run")
    found = verify(asked.folder)
    if found.wrong_at is not None:
        raise DataError(
            f"the ledger of {asked.folder} is wrong at step {found.wrong_at}: that log was not made by this data and seed",
            next_step="check that the images are those the run was started on",
        )
    rows = [
        ("ledger", "right: every sample once an epoch, in the order of its seed"),
        ("samples", f"{found.samples:,} in {found.lines:,} lines of the log"),
        ("unreadable", f"{found.unreadable} left out"),
    ]
    show(pairs(rows), "table")
    return 0
