"""The ledger of a run, computed again from its data and its seed; and its settings beside those of its newest checkpoint."""

from dataclasses import dataclass
from pathlib import Path

from vitrail.batches.order import Order
from vitrail.checkpoints import read as checkpoints
from vitrail.errors import DataError
from vitrail.reports import journal
from vitrail.training.ledger import recompute, unreadable
from vitrail.training.resume_rules import differences, kind_in
from vitrail.training.run import Run
from vitrail.training.run_data import open_run, stream_of
from vitrail.training.run_folder import RunFolder
from vitrail.training.state import Facts
from vitrail.weights.published_file import refuse_folds


@dataclass(frozen=True)
class Verified:
    """The result of `verify_run`: how much was checked, and the first logged step whose number differs."""

    lines: int
    samples: int
    unreadable: int
    """Images that could not be read and were left out; they are listed in bad_samples.jsonl."""
    wrong_at: int | None
    changed: tuple[str, ...] | None
    """Settings in run.json that change what is learned and are not those of the newest checkpoint; None where that holds none."""


def verify_run(folder: str | Path) -> Verified:
    """Computes the ledger of a run again from its data and seed, and compares every line of its log.

        vitrail.verify_run("runs/digits-1").wrong_at  # None

    Raises DataError when there is none to compare.

    Args:
        folder: A run folder.
    """
    path = Path(folder)
    refuse_folds(path)
    run = RunFolder.reopen(path).run
    train = open_run(run).train
    facts = newest_facts(path)
    if facts and facts.data != train.fingerprint:
        raise DataError(
            f"the images in {run.data} are not those that {path} was trained on", next_step="put them back, then verify"
        )
    source = stream_of(train, run)
    rows = [(row["step"], row["ledger"]) for row in journal.read(path / "metrics.jsonl") if "ledger" in row]
    if not rows:
        raise DataError(f"{path} has no ledger in its log", next_step="train a step or more first")
    bad = unreadable(path / "bad_samples.jsonl")
    steps = [step for step, _ in rows]
    order = Order(len(source), run.seed)
    numbers = recompute(order, source.keys, run.batch_size, steps, repeats=run.augment.repeats, without=bad)
    wrong = (step for (step, found), wanted in zip(rows, numbers, strict=True) if found != f"{wanted:016x}")
    return Verified(len(rows), steps[-1] * run.batch_size, len(bad), next(wrong, None), changed_settings(facts, run))


def newest_facts(path: Path) -> Facts | None:
    """Those of the newest checkpoint; None where there is none."""
    snapshot = checkpoints.newest(path / "checkpoints", say=lambda text: None)
    return Facts.of(snapshot) if snapshot else None


def changed_settings(facts: Facts | None, run: Run) -> tuple[str, ...] | None:
    """Names of the settings that are not those that the newest checkpoint was trained with; None where it does not say."""
    if facts is None or facts.run is None:
        return None
    return tuple(key for key, *_ in differences(facts.run, run) if kind_in(key, run) == "trajectory")
