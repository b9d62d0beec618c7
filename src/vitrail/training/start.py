"""Checks before the first step: images, model and state are made ready, and everything that may refuse is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitrail.batches.loader import most_unreadable
from vitrail.checkpoints import read as checkpoints
from vitrail.errors import DataError
from vitrail.images.audit import check
from vitrail.images.content_keys import Keys
from vitrail.images.sources import Splits
from vitrail.processes.world import World
from vitrail.reports.progress import progress
from vitrail.training.head_start import HeadStart, head_start
from vitrail.training.resume_rules import check_changes, check_data
from vitrail.training.run import Run
from vitrail.training.run_data import arrange, locate_teacher, open_run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup, prepare
from vitrail.training.state import Facts, State
from vitrail.training.unseen import read_start_keys, save_trained_keys, starting_keys, without_trained
from vitrail.weights.trained_on import TRAINED_KEYS

SECONDS = 5.0
"""The most that the look may take, whatever the size of the set."""
SHOWN = 20_000  # images from which on it takes long enough for a line of progress


@dataclass(frozen=True)
class Start:
    """A run before its first step, or before the next one."""

    setup: Setup
    state: State
    keys: Keys
    """The images that its starting weights were trained on."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Sentences on what was chosen, changed and found."""


def start_run(
    run: Run,
    folder: RunFolder,
    ranks: World,
    splits: Splits | None = None,
    *,
    check_images: bool = True,
    allow_leaks: bool = False,
    quiet: bool = False,
) -> Start:
    """A new run: its images are looked at, its head is set, the cheap answers are measured."""
    run = locate_teacher(run)
    keys = starting_keys(run)
    setup = _prepare(run, ranks, splits, keys)
    seen = look_over(setup, allow_leaks=allow_leaks, quiet=quiet) if check_images else ()
    before = head_start(setup)
    state = before.setup.state()
    folder.check_room(state.size)
    return Start(before.setup, state, keys, before.baselines, (*setup.notes, *seen, *before.notes))


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
    images = sum(map(len, splits.parts.values()))
    with progress(images, "Checking the images", quiet=quiet or images < SHOWN) as bar:
        audit = check(splits, quick=True, seconds=SECONDS, tick=bar.update)
    known = set(setup.notes)
    stops = audit.stops(None if setup.run.skip_unreadable else most_unreadable, allow_leaks=allow_leaks)
    sentences = tuple(sentence for sentence in audit.sentences() if sentence not in known)
    return sentences, next(iter(stops), None)


def resume_run(
    run: Run | None,
    folder: RunFolder,
    ranks: World,
    splits: Splits | None = None,
    *,
    override: bool = False,
    accept_data_change: bool = False,
) -> Start:
    """The run of a folder where it stopped; `run` has the settings that change."""
    said: list[str] = []
    snapshot = checkpoints.newest(folder.checkpoints, say=said.append, world=ranks)
    facts = Facts.of(snapshot) if snapshot else None
    before = facts.run if facts and facts.run else folder.run
    wanted, changes = check_changes(before, run or folder.run, override=override)
    known = read_start_keys(folder.path)
    keys = starting_keys(wanted) if known is None else known
    setup = _prepare(wanted, ranks, splits, keys, fresh=not snapshot)
    # killed before its first checkpoint, a run has no head yet
    begun = HeadStart(setup) if snapshot else head_start(setup)
    state = begun.setup.state()
    folder.check_room(state.size)
    if snapshot and facts:
        check_data(facts.data, state.data, accept=accept_data_change)
        state.restore(snapshot, ranks)
    return Start(begun.setup, state, keys, begun.baselines, (*setup.notes, *changes, *said, *begun.notes))


def _prepare(run: Run, ranks: World, splits: Splits | None, keys: Keys, *, fresh: bool = True) -> Setup:
    splits = without_trained(arrange(splits or open_run(run), run), keys)
    return prepare(run, ranks, splits, fresh=fresh)


def write_start(start: Start, folder: RunFolder, *, new_images: bool, quiet: bool = False) -> None:
    """Writes the first files of a run: after all that may refuse a changed run, and run.json before the others."""
    folder.save_baselines(start.baselines)
    folder.save(start.setup.run)
    folder.save_skipped(start.setup.splits.skipped)
    if start.setup.world.leads and (new_images or not (folder.path / TRAINED_KEYS).exists()):
        save_trained_keys(folder.path, start.setup.splits.train, start.keys, quiet=quiet)
