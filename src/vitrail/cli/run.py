"""`vitrail run`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from vitrail.cli.arguments import pairs, parse, say
from vitrail.errors import ConfigError, DataError
from vitrail.reports.tables import show
from vitrail.training.extract_weights import export
from vitrail.training.ledger import verify


@dataclass(frozen=True)
class RunCommand:
    """Checks a run folder, or takes weights out of it.

    `verify` computes from data and seed which samples each step must have learnt from, and compares every line of the log.
    `export` makes one bundle (model.safetensors and record.json) of the newest checkpoint, also of a run in shards or killed.

    examples:
      vitrail run verify runs/digits-1
      vitrail run export runs/digits-1 --out digits-now
    """

    action: tyro.conf.Positional[Literal["verify", "export"]]
    folder: tyro.conf.Positional[Path]
    """A run folder."""
    out: Path | None = None
    """Where `export` writes the bundle."""


def main(words: Sequence[str]) -> int:
    asked = parse(RunCommand, words, command="run")
    return exported(asked) if asked.action == "export" else verified(asked)


def exported(asked: RunCommand) -> int:
    if asked.out is None:
        raise ConfigError("run export without --out", next_step="name the folder to write: --out NAME")
    step = export(asked.folder, asked.out, say=say)
    show(pairs([("step", f"{step:,}"), ("bundle", asked.out.as_posix())]), "table")
    return 0


def verified(asked: RunCommand) -> int:
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
