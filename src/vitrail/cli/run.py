"""Checks a run folder, or takes weights out of it.

examples:
  vitrail run verify runs/digits-1
  vitrail run export runs/digits-1 --out digits-now
"""

from collections.abc import Sequence

from vitrail.cli.arguments import pairs, parse, run_group, say
from vitrail.cli.options import options_of
from vitrail.errors import DataError
from vitrail.reports.tables import show


def main(words: Sequence[str]) -> int:
    return run_group("run", __doc__, {"verify": verify_run, "export": export_run}, words)


def export_run(words: Sequence[str]) -> int:
    """RUN --out NEW · Makes one bundle (model.safetensors, record.json) of the newest checkpoint, of any run.

    examples:
      vitrail run export runs/digits-1 --out digits-now
    """
    asked = parse(options_of("export_run", export_run.__doc__, positional=["folder"]), words, command="run export")
    from vitrail.training.extract_weights import export_run as export_weights

    step = export_weights(asked.folder, asked.out, say=say)
    show(pairs([("step", f"{step:,}"), ("bundle", asked.out.as_posix())]), "table")
    return 0


def verify_run(words: Sequence[str]) -> int:
    """RUN · Computes from data and seed which samples each step was trained on, and compares every line of the log.

    examples:
      vitrail run verify runs/digits-1
    """
    asked = parse(options_of("verify_run", verify_run.__doc__), words, command="run verify")
    from vitrail.training.verify import verify_run as verify

    found = verify(asked.folder)
    if found.wrong_at is not None:
        raise DataError(
            f"the ledger of {asked.folder} is wrong at step {found.wrong_at}: that log was not made by this data and seed",
            next_step="check that the images are those the run was started on",
        )
    if found.changed:
        raise DataError(
            f"run.json of {asked.folder} is not the one its checkpoint was trained with: {', '.join(found.changed)}",
            next_step="put the file back",
        )
    rows = [
        ("ledger", "right: every sample once an epoch, in the order of its seed"),
        ("samples", f"{found.samples:,} in {found.lines:,} lines of the log"),
        ("unreadable", f"{found.unreadable} left out"),
        ("settings", "not kept in the checkpoints" if found.changed is None else "those of the newest checkpoint"),
    ]
    show(pairs(rows), "table")
    return 0
