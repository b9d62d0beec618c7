"""No score on images that were trained on: which images a model has seen, and a set without them.

Images are compared by contents (`images.content_keys`), so names, folders, the current directory and the way of storing
do not matter. A run keeps the keys of its training images, and those of the weights that it started from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from vitrail.arguments import Split
from vitrail.checkpoints.write import STATE, folder_of, list_steps
from vitrail.config import read_object
from vitrail.errors import CheckpointError, ConfigError, DataError
from vitrail.images.content_keys import NO_KEYS, Keys, contained, keys_of, read_keys, unique_keys, write_keys
from vitrail.images.heldout import join_split
from vitrail.images.samples import Source, Splits
from vitrail.prediction.engine import Engine
from vitrail.reports.progress import progress
from vitrail.training.run import Run
from vitrail.training.run_data import open_run
from vitrail.training.run_folder import RunFolder
from vitrail.weights.bundle import RECORD, read_record
from vitrail.weights.trained_on import TRAINED_KEYS, read_trained_keys

SHOWN = 20_000
"""Images from which on hashing has a line of progress."""
START_KEYS = "start.keys"
CHOSEN = "best/ was chosen by held-out or validation images of its run: if they are among these, the score flatters"
Model = str | Path | nn.Module | Engine


@dataclass(frozen=True)
class Seen:
    """The images that a model was trained on, by content."""

    keys: Keys = field(default_factory=lambda: NO_KEYS)
    note: str = ""
    """Why they are not known, or not certain."""


@dataclass(frozen=True)
class Part:
    """The images to measure on."""

    source: Source
    trained_on: int
    """How many of them the model was trained on: more than 0 only where that part was asked for."""
    sentences: tuple[str, ...]
    """A sentence for the screen: which images they are, and which remain unknown."""


def seen_by(*models: Model) -> Seen:
    """The images that any of these models was trained on. A model is a path, or was loaded from one."""
    found = [_seen_by(model) for model in models]
    keys = np.unique(np.concatenate([NO_KEYS, *(seen.keys for seen in found)]))
    return Seen(keys, "; ".join(dict.fromkeys(seen.note for seen in found if seen.note)))


def choose_part(splits: Splits, models: Sequence[Model], split: Split = "auto", data: str = "") -> Part:
    """The part to measure: `auto` is the test part of data with a split of its own, else all images; each without those
    that a model was trained on. Raises DataError where nothing is left. A part that is named is measured whole.
    """
    seen, drawn = seen_by(*models), splits.drawn
    source, name = _choose_split(splits, split)
    trained = count_of(source, seen)
    total, held = int(trained.sum()), f"({name} of {data or source.name})"
    notes = (seen.note,) if seen.note else ()
    if split != "auto" or not total:
        sentence = f"{len(source):,} images {held}" + (f"; {total:,} of them were trained on" if total else "")
        return Part(source, total, (sentence, *notes))
    if total == len(source):
        raise DataError(
            f"all {total:,} images {held} were trained on: a score on them would say nothing about new images",
            next_step="name other images, or the split to measure nevertheless",
        )
    rest = source.subset(np.flatnonzero(~trained))
    left = f"{len(rest):,} images that were not trained on {held}"
    return Part(rest, 0, (left if drawn else f"{left}; {total:,} others were, and are left out", *notes))


def keep_unseen(splits: Splits, *models: Model) -> tuple[Splits, tuple[str, ...]]:
    """The split with test images that no model was trained on; of a drawn split the others go to the training part."""
    seen = seen_by(*models)
    trained, notes = count_of(splits.test, seen), (seen.note,) if seen.note else ()
    if not trained.any():
        return splits, notes
    if trained.all():
        raise DataError(
            f"all {len(trained):,} test images of {splits.test.name} were trained on",
            next_step="name images that the model has not seen",
        )
    test = splits.test.subset(np.flatnonzero(~trained))
    how = f"{splits.how}; {trained.sum():,} of the {len(trained):,} held out were trained on and are left out"
    return replace(splits, test=test, train=_with_more(splits, np.flatnonzero(trained)), how=how), notes


def without_trained(splits: Splits, keys: Keys) -> Splits:
    """Validation and test parts without images of these keys: those that the starting weights were trained on."""
    changed: dict[str, Any] = {}
    for name, source in splits.parts.items():
        if name == "train" or not (trained := count_of(source, Seen(keys))).any():
            continue
        what = f"{trained.sum():,} of {len(source):,} {name} images were trained on by the starting weights"
        if trained.all():
            what += ": the score says nothing about new images"
            if name == "test":
                changed["trained_on"] = len(source)
        else:
            changed[name], what = source.subset(np.flatnonzero(~trained)), f"{what} and are left out"
        changed["how"] = f"{changed.get('how', splits.how)}; {what}"
    return replace(splits, **changed)


def starting_keys(run: Run) -> Keys:
    """The images that the weights a run starts from were trained on; a teacher's too."""
    starts = (run.weights, getattr(run.objective, "teacher", None))
    return seen_by(*(path for path in starts if path)).keys


def read_start_keys(folder: Path) -> Keys | None:
    """`starting_keys` as a run noted them at its start; None where it noted none. The weights may be gone since."""
    return read_keys(folder / START_KEYS) if (folder / START_KEYS).is_file() else None


def save_trained_keys(folder: Path, train: Source, start: Keys, *, quiet: bool = False) -> None:
    """Writes `trained.keys` of a run: its training images, those before, and those of its starting weights; and these apart."""
    if len(start):
        write_keys(folder / START_KEYS, start)
    before = read_trained_keys(folder)
    keys = unique_keys(hash_images(train, quiet=quiet))
    write_keys(folder / TRAINED_KEYS, np.unique(np.concatenate([NO_KEYS if before is None else before, start, keys])))


def count_of(source: Source, seen: Seen) -> np.ndarray:
    """For each image, whether it was trained on."""
    if not len(seen.keys):
        return np.zeros(len(source), bool)
    return contained(hash_images(source), seen.keys)


def hash_images(source: Source, *, quiet: bool = False) -> np.ndarray:
    """`keys_of` with a line of progress where there are many images."""
    with progress(len(source), "Hashing the images", quiet=quiet or len(source) < SHOWN) as bar:
        return keys_of(source, bar.update)


def _choose_split(splits: Splits, split: Split) -> tuple[Source, str]:
    name = split if split != "auto" else "all" if splits.drawn else "test"
    if name == "all":
        if not splits.drawn:
            raise ConfigError("this data has a split of its own", allowed="split 'train', 'val' or 'test'")
        return join_split(splits), name
    if name not in splits.parts:
        raise ConfigError("this data has no validation part", allowed="split 'train' or 'test'")
    return splits.parts[name], name


def _with_more(splits: Splits, moved: np.ndarray) -> Source:
    """The training part of a drawn split with more images; a split of the data's own stays."""
    if not splits.drawn:
        return splits.train
    return join_split(replace(splits, test=splits.test.subset(moved)))


def _seen_by(model: Model) -> Seen:
    told = getattr(model, "trained_keys", None)  # an exported model carries them
    if told is not None:
        return Seen(told)
    path = model if isinstance(model, str | Path) else getattr(model, "loaded_from", None)
    if not isinstance(path, str | Path):
        return Seen()
    keys = read_trained_keys(path)
    if keys is not None:
        is_best = Path(path).name == "best" and _run_folder(Path(path)) is not None
        return Seen(keys, CHOSEN if is_best else "")
    folder = _run_folder(Path(path))
    return _seen_before_keys(folder) if folder else _seen_by_bundle(path)


def _run_folder(path: Path) -> Path | None:
    """The run whose folder, or whose best/ or last/, this is."""
    return next((folder for folder in (path, path.parent) if (folder / "run.json").is_file()), None)


def _seen_by_bundle(path: str | Path) -> Seen:
    """A bundle that a run of 0.1.0 wrote does not say it; of a published file nothing is asked."""
    folder = Path(path) if Path(path).is_dir() else Path(path).parent
    ours = (folder / RECORD).is_file() and read_record(folder).source.startswith("trained by vitrail")
    return Seen(note=f"which images {path} was trained on is not known" if ours else "")


def _seen_before_keys(folder: Path) -> Seen:
    """The training images of a run of 0.1.0, which kept no keys: found again by its settings and its fingerprint."""
    run = RunFolder.read(folder)
    unknown = Seen(note=f"which images {folder} was trained on is not known: its data {run.data!r} cannot be found")
    states = [folder_of(folder / "checkpoints", step) / STATE for step in list_steps(folder / "checkpoints")]
    wanted = read_object(states[-1], CheckpointError).get("data") if states else None
    places = (place / run.data for place in folder.resolve().parents)
    for data in (run.data, *(str(place) for place in places if place.exists())):
        try:
            train = open_run(replace(run, data=data)).train
        except DataError:
            continue
        if wanted in (None, train.fingerprint):
            note = "" if wanted else f"{folder} does not say whether its images are still those in {run.data!r}"
            return Seen(unique_keys(hash_images(train)), note)
    return unknown
