"""The ledger of a run, computed again from its data and its seed."""

from dataclasses import dataclass
from pathlib import Path

from vitrail.batches.order import Order
from vitrail.errors import DataError
from vitrail.reports import journal
from vitrail.training.ledger import recompute, unreadable
from vitrail.training.run_data import open_run, stream_of
from vitrail.training.run_folder import RunFolder


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: how much was checked, and the first logged step whose number differs."""

    lines: int
    samples: int
    unreadable: int
    """Images that could not be read and were left out; they are listed in bad_samples.jsonl."""
    wrong_at: int | None


def verify(path: Path) -> Verified:
    """Computes the ledger of a run again and compares every line of its log. Raises DataError when there is none to compare."""
    run = RunFolder.reopen(path).run
    source = stream_of(open_run(run).train, run)
    rows = [(row["step"], row["ledger"]) for row in journal.read(path / "metrics.jsonl") if "ledger" in row]
    if not rows:
        raise DataError(f"{path} has no ledger in its log", next_step="train a step or more first")
    bad = unreadable(path / "bad_samples.jsonl")
    steps = [step for step, _ in rows]
    order = Order(len(source), run.seed)
    numbers = recompute(order, source.keys, run.batch_size, steps, repeats=run.augment.repeats, without=bad)
    wrong = (step for (step, found), wanted in zip(rows, numbers, strict=True) if found != f"{wanted:016x}")
    return Verified(len(rows), steps[-1] * run.batch_size, len(bad), next(wrong, None))
