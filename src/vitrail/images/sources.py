"""Opening data: whatever a person points at becomes a Source, or an error that says what it should have been."""

import importlib.resources
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from vitrail.errors import DataError, suggest
from vitrail.images.files import Files, key_of, list_images
from vitrail.images.folders import open_folder
from vitrail.images.idx import find_idx, open_idx
from vitrail.images.samples import Sample, Source, Splits, from_arrays, split

__all__ = ["Sample", "Source", "Splits", "open_data", "open_images"]


def open_data(
    spec: str | Path, *, holdout: float = 0.2, seed: int = 0, download: bool = False, allow_empty: bool = False
) -> Splits:
    """Labelled images to learn from and held-out ones, from a folder or a named set.

    `holdout` is the share of every class held out where the data has no split of its own. Raises DataError.
    """
    if str(spec) in NAMED:
        return NAMED[str(spec)](holdout, seed)
    path = Path(spec)
    if not str(spec) or not path.exists():
        raise DataError(
            f"there is no file or folder {str(spec)!r}, and no set of this name",
            allowed="a folder with one folder of images for each class, a folder of IDX files, or " + ", ".join(NAMED),
            next_step=suggest(str(spec), NAMED) or "check the path",
        )
    root = path.resolve()
    if not root.is_dir():
        raise DataError(f"{path} is a file", allowed="a folder of images")
    if find_idx(root):
        return open_idx(root, holdout=holdout, seed=seed)
    return open_folder(root, holdout=holdout, seed=seed, allow_empty=allow_empty)


def open_images(paths: Sequence[str | Path]) -> Source:
    """Unlabelled images to predict: files as named, folders searched at any depth. A missing path is an error."""
    keys: list[str] = []
    sizes: list[int] = []
    notes: list[str] = []
    for path in paths:
        if not os.path.exists(path):
            raise DataError(f"there is no file or folder {key_of(str(path))!r}", next_step="check the path")
        if os.path.isdir(path):
            listing = list_images(Path(path))
            keys += [os.path.join(key_of(str(path)), key) for key in listing.keys]
            sizes += listing.sizes
            notes += [f"{key_of(str(path))}: {note}" for note in listing.note]
        else:
            keys.append(key_of(str(path)))
            sizes.append(os.path.getsize(path))
    if not keys:
        raise DataError(
            f"no images in {', '.join(key_of(str(path)) for path in paths) or 'nothing'}",
            next_step="; ".join(notes) or "name image files, or folders of them",
        )
    labels, rows = np.full(len(keys), -1, np.int64), np.arange(len(keys))
    return Source("images", (), labels, keys, Files(Path(), keys, np.array(sizes, np.int64)), rows, tuple(notes))


def _digits(holdout: float, seed: int) -> Splits:
    """1,797 handwritten digits of 8×8 (UCI Optical Recognition of Handwritten Digits, its test part; CC BY 4.0)."""
    with importlib.resources.files("vitrail.images").joinpath("digits.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        images, labels = stored["images"], stored["labels"]
    scaled = np.rint(images * (255 / 16)).astype(np.uint8)  # stored as the counts 0 … 16 they were published as
    source = from_arrays("digits", scaled[..., None], labels.astype(np.int64), tuple("0123456789"))
    return split(source, holdout, seed)


FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


def _idx_set(name: str, folder: str, classes: tuple[str, ...]) -> Callable[[float, int], Splits]:
    def opener(holdout: float, seed: int) -> Splits:
        places = [place / sub for place in data_folders() for sub in (name, f"{folder}/raw", folder)]
        for place in places:
            if place.is_dir() and find_idx(place):
                return open_idx(place, holdout=holdout, seed=seed, name=name, classes=classes)
        raise DataError(
            f"{name} is not on this machine",
            next_step=f"put its IDX files into {places[0]} (Debian has them as the package dataset-{name})",
        )

    return opener


def data_folders() -> list[Path]:
    """Where named sets are looked for: `$VITRAIL_DATA`, the user's cache, and where Debian puts packaged sets."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    own = [Path(os.environ["VITRAIL_DATA"])] if os.environ.get("VITRAIL_DATA") else []
    return [*own, cache / "vitrail", Path("/usr/share/datasets")]


NAMED: dict[str, Callable[[float, int], Splits]] = {
    "digits": _digits,
    "fashion-mnist": _idx_set("fashion-mnist", "FashionMNIST", FASHION),
    "mnist": _idx_set("mnist", "MNIST", tuple("0123456789")),
}
"""Sets that are known by name."""
