"""Checks the images before the first step: seconds now, for faults that would waste hours of training."""

from vitrail.batches.loader import most_unreadable
from vitrail.errors import DataError
from vitrail.images.audit import check
from vitrail.reports.progress import progress
from vitrail.training.setup import Setup

SECONDS = 5.0
"""The most that the look may take, whatever the size of the set."""
SHOWN = 20_000  # images from which on it takes long enough for a line of progress


def look_over(setup: Setup, *, allow_leaks: bool = False, quiet: bool = False) -> tuple[str, ...]:
    """Exact copies between parts, conflicting labels, unreadable headers: sentences on what was found.

    Raises DataError for what stops a training (`Audit.stops`). One rank looks, all stop.
    """
    if not setup.run.objective.reads_labels:
        return ()
    sentences, error = _look(setup, allow_leaks, quiet) if setup.world.leads else ((), None)
    if setup.world.any(error is not None):
        raise error or DataError("the first process found images that a training stops at", next_step="see its message")
    return sentences


def _look(setup: Setup, allow_leaks: bool, quiet: bool) -> tuple[tuple[str, ...], DataError | None]:
    splits = setup.splits
    images = sum(len(source) for source in (splits.train, splits.val, splits.test) if source is not None)
    with progress(images, "Checking the images", quiet=quiet or images < SHOWN) as bar:
        audit = check(splits, quick=True, seconds=SECONDS, tick=bar.update)
    known = set(setup.notes)
    stops = audit.stops(None if setup.run.skip_unreadable else most_unreadable, allow_leaks=allow_leaks)
    sentences = tuple(sentence for sentence in audit.sentences() if sentence not in known)
    return sentences, next(iter(stops), None)
