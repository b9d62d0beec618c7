"""Class folders: the first level below the root names the class, whatever lies deeper belongs to it.

With `leaves` the folder that an image lies in names its class, at whatever depth.
"""

import os
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitrail.errors import DataError
from vitrail.images.exact_duplicates import group_alike
from vitrail.images.files import LEADS_OUT, Listing, Walk, key_of
from vitrail.images.heldout import own_split, split
from vitrail.images.samples import Source, Splits

SPLITS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Names of the folders of a set with its own split."""


LEAVES = "**"
"""The last part of a path whose leaf folders are the classes: "photos/**"."""


def open_folder(
    root: Path,
    *,
    holdout: float,
    seed: int,
    allow_empty: bool = False,
    follow_links: bool = False,
    leaves: bool = False,
) -> Splits:
    """A folder of classes, or of train, val and test folders of classes."""
    parts, beside = _split_folders(root, follow_links)
    if not parts:
        whole = read_classes(root, allow_empty=allow_empty, follow_links=follow_links, leaves=leaves)
        return split(whole, holdout, seed)
    walk = Walk(root, follow_links=follow_links)
    walk.claim(*parts.values())  # an image is in one part, whatever links lead to it
    train = read_classes(root, parts["train"], allow_empty=allow_empty, walk=walk, leaves=leaves)
    train = replace(train, skipped=(*beside.skipped, *train.skipped))
    rest = {
        name: read_classes(root, parts[name], classes=train.classes, walk=walk, leaves=leaves)
        for name in ("val", "test")
        if name in parts
    }
    return own_split({"train": train, **rest}, "folder's") if rest else split(train, holdout, seed)


def _split_folders(root: Path, follow_links: bool) -> tuple[dict[str, str], Listing]:
    """Which folder is train, which val, which test, nothing where the folders are classes; and what else is there."""
    folders, beside = _subfolders(root, Walk(root, follow_links=follow_links))
    parts = {part: folder for folder in folders for part, names in SPLITS.items() if folder.lower() in names}
    others = [folder for folder in folders if not any(folder.lower() in names for names in SPLITS.values())]
    if "train" not in parts or (others and len(parts) == 1):
        return {}, beside
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
    return parts, beside


def read_classes(
    root: Path,
    part: str = "",
    *,
    classes: Sequence[str] | None = None,
    allow_empty: bool = False,
    follow_links: bool = False,
    walk: Walk | None = None,
    leaves: bool = False,
) -> Source:
    """All images of the class folders in `root`/`part`; keys are paths from `root`. Parts of one set share a `walk`.

    With `leaves` the class is the folder that an image lies in. `classes` are those of the training part: a class that is
    not among them is an error, one that is missing a note.
    """
    where, walk = root / part, walk or Walk(root, follow_links=follow_links)
    folders, skipped = _subfolders(where, walk)
    if not folders:
        raise DataError(
            f"{where} holds no class folders",
            allowed="one folder for each class, with its images inside (at any depth)",
            next_step=f"sort the images into {where / 'class-name'}/…",
        )
    listings = walk.list([os.path.join(part, folder) for folder in folders])
    names = [_class_name(folder) for folder in folders]
    found = by_leaf(listings, skipped) if leaves else dict(zip(names, listings, strict=True))
    _check_names(where, list(found) if leaves else names)
    known = tuple(found) if classes is None else tuple(classes)
    if unknown := sorted(set(found) - set(known)):
        raise DataError(
            f"class {unknown[0]!r} is in {where} but not in the training images",
            allowed=", ".join(known[:8]) + (", …" if len(known) > 8 else ""),
            next_step="the same classes in every part of the split",
        )
    source = _collect(root, part, found, known, skipped, allow_empty=allow_empty)
    return source if leaves else note_merged(source, 2 if part else 1)


def by_leaf(listings: Sequence[Listing], skipped: Listing) -> dict[str, Listing]:
    """The images of each folder that holds any, by the folder's name: folders of one name are one class."""
    found: dict[str, Listing] = {}
    for listing in listings:
        skipped.skipped += listing.skipped
        for key, size in listing.images:
            leaf = found.setdefault(_class_name(os.path.basename(os.path.dirname(key))), Listing())
            leaf.images.append((key, size))
    return dict(sorted(found.items()))


def note_merged(source: Source, depth: int) -> Source:
    """The same with a note on folders that lie deeper than the class folders."""
    deeper = {os.path.dirname(key) for key in source.keys if key.count(os.sep) > depth}
    if not deeper:
        return source
    were = "subfolder was" if len(deeper) == 1 else "subfolders were"
    note = f"{len(deeper):,} {were} merged into {len(source.classes)} classes; --classes leaf makes each a class"
    return replace(source, notes=(*source.notes, note))


def _class_name(folder: str) -> str:
    return key_of(unicodedata.normalize("NFC", folder))


def _collect(
    root: Path,
    part: str,
    listings: dict[str, Listing],
    classes: tuple[str, ...],
    every: Listing,
    *,
    allow_empty: bool,
) -> Source:
    labels, notes = [], []
    for name, listing in listings.items():
        if not listing.images:
            if not allow_empty:
                raise DataError(
                    f"class {name!r} has no images: {root / part / name} holds {', '.join(listing.note) or 'no files'}",
                    next_step="add images, or remove the folder",
                )
            notes.append(f"class {name!r} has no images")
        every.add(listing)
        labels += [classes.index(name)] * len(listing.images)
    if missing := [name for name in classes if name not in listings]:
        notes.append(f"{root / part} has no images of {', '.join(missing[:5])}{', …' if len(missing) > 5 else ''}")
    files, notes = every.files(root), (*every.note, *notes)
    rows, targets = np.arange(len(labels)), np.array(labels, np.int64)
    return Source(root.name, classes, targets, files.keys, files, rows, notes, tuple(every.skipped))


def _check_names(where: Path, names: Sequence[str]) -> None:
    """Two folders that some file system, or some reader, would take for one class."""
    for group in group_alike((name.casefold(), name) for name in names):
        raise DataError(
            f"{where} has {len(group)} folders for one class: {', '.join(map(repr, group))} (they differ in case "
            "or in how an accent is written)",
            next_step="merge or rename them",
        )


def _subfolders(where: Path, walk: Walk) -> tuple[list[str], Listing]:
    """The folders in `where`, sorted, and what else is there. A link out of the root is an error unless it is followed."""
    folders, skipped = [], Listing()
    with os.scandir(where) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    hidden = {entry.name for entry in found if entry.name.startswith((".", "__") if entry.is_dir() else ".")}
    own = [entry for entry in found if entry.is_dir(follow_symlinks=False) and entry.name not in hidden]
    walk.claim(*(os.path.realpath(entry.path) for entry in own))
    for entry in found:
        target, path = os.path.realpath(entry.path), os.path.relpath(entry.path, walk.root)
        if entry.name in hidden:
            skipped.skip("hidden", path)
        elif not entry.is_dir():
            skipped.skip("beside the class folders", path)
        elif not entry.is_symlink():
            folders.append(entry.name)
        elif (reason := walk.refuse(target)) == LEADS_OUT:
            raise DataError(
                f"{key_of(entry.path)} is a link out of the folder, to {key_of(target)}",
                next_step="copy or move that folder here, or add `follow_links=True`",
            )
        elif reason:
            skipped.skip(reason, path)
        else:
            folders.append(entry.name)
            walk.claim(target)
    return folders, skipped
