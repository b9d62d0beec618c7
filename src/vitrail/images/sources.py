"""Opening data: whatever a person points at becomes a Source, or an error that says what it should have been."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from vitrail.errors import DataError, suggest
from vitrail.images.files import Files, key_of, list_images
from vitrail.images.folders import open_folder
from vitrail.images.idx import find_idx, open_idx
from vitrail.images.named import NAMED
from vitrail.images.samples import Sample, Source, Splits

__all__ = ["NAMED", "Sample", "Source", "Splits", "open_data", "open_images"]


def open_data(
    spec: str | Path, *, holdout: float = 0.2, seed: int = 0, download: bool = False, allow_empty: bool = False
) -> Splits:
    """Labelled images to learn from and held-out ones.

    `spec` is a folder (class folders, with train, val and test above them or not; IDX files; shards; Parquet), a CSV, TSV
    or Parquet file, a named set, or `hf:owner/name`. `holdout` is the share of every class held out where the data has no
    split of its own. Named sets are fetched only with `download`. Raises DataError.
    """
    text = str(spec)
    if not 0 < holdout < 1:
        raise DataError(f"holdout = {holdout}", allowed="a share between 0 and 1")
    if text in NAMED:
        named = NAMED[text](text, holdout, seed, download)
        return replace(named, published=not named.drawn)
    if text.startswith("hf:"):
        from vitrail.images.hub import open_hub

        return open_hub(text.removeprefix("hf:"), holdout=holdout, seed=seed, download=download)
    path = Path(spec)
    if not text or not path.exists():
        raise DataError(
            f"there is no file or folder {key_of(text)!r}, and no set of this name",
            allowed="a folder with a folder of images for each class, a CSV file, IDX files, shards, or one of "
            + ", ".join(NAMED),
            next_step=suggest(text, NAMED) or "check the path",
        )
    if path.is_dir():
        return _open_folder(path.resolve(), holdout, seed, allow_empty)
    return _open_file(path.resolve(), holdout, seed)


def _open_folder(root: Path, holdout: float, seed: int, allow_empty: bool) -> Splits:
    if (root / "index.json").is_file() and (root / "index.npz").is_file():
        from vitrail.images.shards import open_shards

        return open_shards(root)
    try:
        names = os.listdir(root)
    except OSError as error:
        raise DataError(
            f"the folder {root} cannot be listed ({error.strerror})", next_step="check permissions"
        ) from None
    if find_idx(root):
        return open_idx(root, holdout=holdout, seed=seed)
    if any(name.endswith(".parquet") for name in names) or list(root.glob("data/*.parquet")):
        from vitrail.images.parquet import open_parquet

        return open_parquet(root, holdout=holdout, seed=seed)
    return open_folder(root, holdout=holdout, seed=seed, allow_empty=allow_empty)


def _open_file(path: Path, holdout: float, seed: int) -> Splits:
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        from vitrail.images.manifest import open_manifest

        return open_manifest(path, holdout=holdout, seed=seed)
    if kind == ".parquet":
        from vitrail.images.parquet import open_parquet

        return open_parquet(path, holdout=holdout, seed=seed)
    raise DataError(
        f"{path} is a file", allowed="a folder, or a file that ends in .csv, .tsv or .parquet",
        next_step=f"point at its folder, {path.parent}" if kind not in (".tar", ".zip", ".gz", ".tgz") else "unpack it first",
    )  # fmt: skip


def open_all(paths: Sequence[str | Path]) -> dict[str, Source]:
    """Everything there is to predict, by split: of shards, Parquet, IDX files or a named set all parts; else the files
    and folders as `open_images` takes them, without a split ("")."""
    only = str(paths[0]) if len(paths) == 1 else ""
    if only not in NAMED and not only.startswith("hf:") and not _is_stored(Path(only)):
        return {"": open_images(paths)}
    splits = open_data(only)
    parts = {"train": splits.train, "test": splits.test, "val": splits.val}
    return {split: source for split, source in parts.items() if source is not None}


def _is_stored(path: Path) -> bool:
    if not path.is_dir():
        return path.suffix in (".parquet", ".csv", ".tsv")
    return (path / "index.npz").is_file() or bool(find_idx(path)) or any(path.glob("*.parquet"))


def open_images(paths: Sequence[str | Path]) -> Source:
    """Unlabelled images to predict: files as named, folders searched at any depth. A missing path is an error."""
    keys: list[str] = []
    sizes: list[int] = []
    notes: list[str] = []
    for path in paths:
        name = key_of(str(path))
        if not os.path.exists(path):
            raise DataError(f"there is no file or folder {name!r}", next_step="check the path")
        if os.path.isdir(path):
            listing = list_images(Path(path))
            keys += [os.path.join(name, key) for key in listing.keys]
            sizes += listing.sizes
            notes += [f"{name}: {note}" for note in listing.note]
        elif os.path.isfile(path):
            keys.append(name)
            sizes.append(os.path.getsize(path))
        else:
            raise DataError(f"{name!r} is a pipe or a device", allowed="image files and folders of them")
    if not keys:
        raise DataError(
            f"no images in {', '.join(key_of(str(path)) for path in paths) or 'nothing'}",
            next_step="; ".join(notes) or "name image files, or folders of them",
        )
    labels, rows = np.full(len(keys), -1, np.int64), np.arange(len(keys))
    return Source("images", (), labels, keys, Files(Path(), keys, np.array(sizes, np.int64)), rows, tuple(notes))
