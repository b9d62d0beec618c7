"""Class folders: the first level below the root names the class, whatever lies deeper belongs to it."""

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitrail.errors import DataError
from vitrail.images.files import Files, Listing, key_of, list_images
from vitrail.images.samples import Source, Splits, split

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""What folders of a set that brings its own split are called."""


def open_folder(root: Path, *, holdout: float, seed: int, allow_empty: bool = False) -> Splits:
    """A folder of classes, or of train, val and test folders of classes."""
    parts = _split_folders(root)
    if not parts:
        return split(read_classes(root, allow_empty=allow_empty), holdout, seed)
    train = read_classes(root, parts["train"], allow_empty=allow_empty)
    rest = {name: read_classes(root, parts[name], classes=train.classes) for name in ("val", "test") if name in parts}
    if not rest:
        return split(train, holdout, seed)
    how = "the split is the folder's own: " + ", ".join(
        f"{parts[name]}/ {len(part):,}" for name, part in {"train": train, **rest}.items()
    )
    if "test" not in rest:
        return Splits(train, rest["val"], how)
    return Splits(train, rest["test"], how, rest.get("val"))


def _split_folders(root: Path) -> dict[str, str]:
    """Which folder is train, which val, which test; nothing where the folders are classes."""
    folders = _subfolders(root)
    parts = {part: folder for folder in folders for part, names in SPLITS.items() if folder.lower() in names}
    others = [folder for folder in folders if not any(folder.lower() in names for names in SPLITS.values())]
    if "train" not in parts or (others and len(parts) == 1):
        return {}
    if others:
        raise DataError(
            f"{root} has {' and '.join(sorted(parts.values()))} but also {', '.join(sorted(others)[:3])}: "
            "are its folders a split, or classes?",
            next_step="keep train, val and test in a folder of their own, or rename the classes",
        )
    if len(parts) < len(folders):
        raise DataError(
            f"{root} names one part of its split twice: {', '.join(sorted(folders))}", next_step="keep one folder each"
        )
    return parts


def read_classes(
    root: Path, part: str = "", *, classes: Sequence[str] | None = None, allow_empty: bool = False
) -> Source:
    """All images of the class folders in `root`/`part`; keys are paths from `root`.

    `classes` are those of the training part: a class that is not among them is an error, one that is missing a note.
    """
    where = root / part
    folders = sorted(_subfolders(where))
    if not folders:
        raise DataError(
            f"{where} holds no class folders",
            allowed="one folder for each class, with its images inside (at any depth)",
            next_step=f"sort the images into {where / 'class-name'}/…",
        )
    names = [key_of(unicodedata.normalize("NFC", folder)) for folder in folders]
    _check_names(where, names)
    known = tuple(names) if classes is None else tuple(classes)
    if unknown := sorted(set(names) - set(known)):
        raise DataError(
            f"class {unknown[0]!r} is in {where} but not in the training images",
            allowed=", ".join(known[:8]) + (", …" if len(known) > 8 else ""),
            next_step="the same classes in every part of the split",
        )
    return _collect(root, part, dict(zip(folders, names, strict=True)), known, allow_empty=allow_empty)


def _collect(root: Path, part: str, folders: dict[str, str], classes: tuple[str, ...], *, allow_empty: bool) -> Source:
    every, labels, notes = Listing(), [], []
    for folder, name in folders.items():
        listing = list_images(root, os.path.join(part, folder))
        if not listing.keys:
            if not allow_empty:
                raise DataError(
                    f"class {name!r} has no images: {root / part / name} holds {', '.join(listing.note) or 'no files'}",
                    next_step="add images, or remove the folder",
                )
            notes.append(f"class {name!r} has no images")
        every.keys += listing.keys
        every.sizes += listing.sizes
        every.skipped += listing.skipped
        labels += [classes.index(name)] * len(listing.keys)
    every.skipped += _loose_files(root / part)
    if missing := [name for name in classes if name not in folders.values()]:
        notes.append(f"{root / part} has no images of {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}")
    contents = Files(root, every.keys, np.array(every.sizes, np.int64))
    rows = np.arange(len(every.keys))
    return Source(root.name, classes, np.array(labels, np.int64), every.keys, contents, rows, (*every.note, *notes))


def _check_names(where: Path, names: Sequence[str]) -> None:
    """Two folders that some file system, or some reader, would take for one class."""
    twins: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        twins[name.casefold()].append(name)
    for group in twins.values():
        if len(group) > 1:
            raise DataError(
                f"{where} has {len(group)} folders for one class: {', '.join(map(repr, group))} (they differ in case "
                "or in how an accent is written)",
                next_step="merge or rename them",
            )


def _subfolders(root: Path) -> list[str]:
    with os.scandir(root) as entries:
        return [entry.name for entry in entries if entry.is_dir() and not entry.name.startswith((".", "__"))]


def _loose_files(root: Path) -> dict[str, int]:
    """Files beside the class folders, which belong to no class."""
    with os.scandir(root) as entries:
        count = sum(1 for entry in entries if not entry.is_dir() and not entry.name.startswith("."))
    return {"beside the class folders": count} if count else {}
