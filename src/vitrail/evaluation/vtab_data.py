"""VTAB's files: prepared copies with list files, class folders, torchvision's datasets, and four formats of their
own.
"""

import gzip
import hashlib
import importlib
import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from vitrail.errors import ConfigError, DataError
from vitrail.evaluation import vtab
from vitrail.evaluation.vtab import Task
from vitrail.images.files import Files, key_of
from vitrail.images.folders import open_folder, read_classes
from vitrail.images.samples import Contents, Numbered, Source, from_arrays


@dataclass(frozen=True, eq=False)
class VtabSplits:
    """800 images to learn from, 200 to choose by, and the whole test set."""

    train: Source
    val: Source
    test: Source
    how: str

    @property
    def train1000(self) -> Source:
        """What the final training, and every probe, learns from."""
        return join([self.train, self.val])


def open_task(task: Task, root: Path, *, seed: int = 0) -> VtabSplits:
    """A task's images from `root/<task.folder>` or `root/<task.name>`. Raises DataError that says how to get what is
    missing.

    Prepared copies, with train800.txt, val200.txt and test.txt beside the images, are the images the lists name. Of the
    original files 800 and 200 are drawn by seed: the authors' draw follows from TFDS's own order of files.
    """
    folder = find(task, root)
    if folder is None:
        raise DataError(
            f"{task.name} is not in {root}",
            allowed=f"its files in {root / task.folder}",
            next_step=f"get it: {task.get}",
        )
    if (folder / "test.txt").is_file():
        return _listed(task, folder)
    train, val, test, how = READERS[task.reader](task, folder, seed)
    train, val = train.subset(_first(train, vtab.TRAIN, seed)), val.subset(_first(val, vtab.VAL, seed))
    return VtabSplits(train, val, test, f"{how}; {len(train)} + {len(val)} of them drawn by seed {seed}")


def find(task: Task, root: Path) -> Path | None:
    places = [root / name for name in (task.folder, task.name, *SHARED.get(task.reader, ()))]
    return next((place for place in places if place.is_dir()), None)


SHARED = {"clevr": ("clevr", "CLEVR_v1.0"), "dsprites": ("dsprites",), "smallnorb": ("smallnorb",)}
"""Folders that serve two tasks."""

Parts = tuple[Source, Source, Source, str]


# --- any source ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Chain:
    """Contents one after the other."""

    parts: tuple[Contents, ...]
    starts: tuple[int, ...]

    def read(self, index: int) -> bytes | np.ndarray:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part].read(index - self.starts[part])

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return np.concatenate([part.sizes for part in self.parts])


def join(sources: Sequence[Source]) -> Source:
    """Sources of the same classes as one, in order."""
    first = sources[0]
    assert all(source.classes == first.classes for source in sources)
    starts = np.cumsum([0, *(len(source.contents.sizes) for source in sources)])
    return Source(
        first.name,
        first.classes,
        np.concatenate([source.labels for source in sources]),
        [key for source in sources for key in source.keys],
        _Chain(tuple(source.contents for source in sources), tuple(map(int, starts[:-1]))),
        np.concatenate([source.rows + start for source, start in zip(sources, starts, strict=False)]),
    )


def _ranked(source: Source, seed: int) -> Int64[np.ndarray, "N"]:
    """The images in an order that follows from the seed and their keys alone."""
    ranks = [hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest() for key in source.keys]
    return np.array(sorted(range(len(source)), key=ranks.__getitem__), dtype=np.int64)


def _first(source: Source, count: int, seed: int) -> Int64[np.ndarray, "n"]:
    return np.sort(_ranked(source, seed)[:count])


def _cut(source: Source, shares: Sequence[float], seed: int) -> list[Source]:
    """Parts of these shares, by rank; the last takes what is left."""
    order = _ranked(source, seed)
    ends = np.round(np.cumsum(shares)[:-1] * len(source)).astype(int)
    return [source.subset(np.sort(part)) for part in np.split(order, ends)]


# --- readers ---------------------------------------------------------------------------------------------------------


def _listed(task: Task, folder: Path) -> VtabSplits:
    train, val, test = (_list(task, folder, name) for name in ("train800", "val200", "test"))
    return VtabSplits(train, val, test, f"the images that the lists in {folder} name")


def _list(task: Task, folder: Path, name: str) -> Source:
    """Lines of `path label`, paths below the folder."""
    path = folder / f"{name}.txt"
    try:
        lines = [line.rsplit(maxsplit=1) for line in path.read_text("utf-8").splitlines() if line.strip()]
        labels = np.array([int(label) for _, label in lines], dtype=np.int64)
        sizes = np.array([(folder / image).stat().st_size for image, _ in lines], dtype=np.int64)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} or an image it names cannot be read ({error})", allowed="lines of `path label`"
        ) from None
    if not len(labels) or labels.min() < 0 or labels.max() >= task.classes:
        raise DataError(f"{path} has no lines, or labels outside the task's {task.classes} classes")
    keys = [key_of(image) for image, _ in lines]
    return Source(task.name, _names(task), labels, keys, Files(folder, keys, sizes), np.arange(len(keys)))


def _names(task: Task) -> tuple[str, ...]:
    return tuple(map(str, range(task.classes)))


def _folder(task: Task, folder: Path, seed: int) -> Parts:
    """Class folders, in train/, val/ and test/ or cut here."""
    if task.name == "caltech101":
        return _caltech(task, folder, seed)
    if any(task.shares):
        train, val, test = _cut(read_classes(_inner(folder)), task.shares, seed)
        return train, val, test, f"train, val and test are {_percent(task.shares)} drawn by seed {seed}"
    splits = open_folder(folder, holdout=0.2, seed=seed)
    if splits.val is None:
        raise DataError(f"{folder} has no train/, val/ and test/", next_step=f"get it: {task.get}")
    return splits.train, splits.val, splits.test, splits.how


def _caltech(task: Task, folder: Path, seed: int) -> Parts:
    """30 images of every class are the training set, all others the test set."""
    whole = read_classes(_inner(folder))
    order = _ranked(whole, seed)
    seen: dict[int, int] = {}
    chosen = np.zeros(len(whole), dtype=bool)
    for row in order:
        label = int(whole.labels[row])
        seen[label] = seen.get(label, 0) + 1
        chosen[row] = seen[label] <= 30
    train, val = _cut(whole.subset(np.flatnonzero(chosen)), task.shares[:2], seed)
    return train, val, whole.subset(np.flatnonzero(~chosen)), f"30 images of each class drawn by seed {seed}"


def _inner(folder: Path) -> Path:
    """Archives often hold one folder, which holds the classes."""
    inside = [path for path in folder.iterdir() if path.is_dir()]
    return inside[0] if len(inside) == 1 else folder


def _cifar(task: Task, folder: Path, seed: int) -> Parts:
    """cifar-100-binary: a coarse label, the fine label, 3 × 32 × 32 bytes."""
    root = next((path.parent for path in folder.rglob("train.bin")), folder)
    parts = []
    for name in ("train", "test"):
        rows = np.frombuffer(_bytes(root / f"{name}.bin", task), np.uint8).reshape(-1, 3074)
        images = np.ascontiguousarray(rows[:, 2:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        parts.append(from_arrays(f"{task.name}-{name}", images, rows[:, 1].astype(np.int64), _names(task)))
    return *_cut(parts[0], task.shares[:2], seed), parts[1], "the official training and test sets"  # pyrefly: ignore


def _torchvision(task: Task, folder: Path, seed: int) -> Parts:
    kind, wanted = TORCHVISION[task.name]
    parts = [_wrapped(task, kind, folder, split) for split in wanted]
    if len(parts) == 3:
        return parts[0], parts[1], parts[2], "the official train, val and test sets"
    if len(parts) == 1:
        train, val, test = _cut(parts[0], task.shares, seed)
        return train, val, test, f"train, val and test are {_percent(task.shares)} drawn by seed {seed}"
    train, val = _cut(parts[0], task.shares[:2], seed)
    return train, val, parts[1], "the official training and test sets"


TORCHVISION: dict[str, tuple[str, tuple[str | None, ...]]] = {
    "dtd": ("DTD", ("train", "val", "test")),
    "flowers102": ("Flowers102", ("train", "val", "test")),
    "pets": ("OxfordIIITPet", ("trainval", "test")),
    "sun397": ("SUN397", (None,)),
    "svhn": ("SVHN", ("train", "test")),
    "camelyon": ("PCAM", ("train", "val", "test")),
}


def _wrapped(task: Task, kind: str, folder: Path, split: str | None) -> Source:
    datasets = importlib.import_module("torchvision.datasets")
    try:
        dataset = getattr(datasets, kind)(str(folder), **({"split": split} if split else {}))
        labels = _labels(dataset)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{task.name} in {folder} is not whole ({error})", next_step=f"get it: {task.get}") from None
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{task.name} needs the package {error.name}", next_step=f"pip install {error.name}"
        ) from None
    keys = Numbered(f"{task.name}-{split or 'all'}", np.arange(len(labels)))
    return Source(task.name, _names(task), labels, keys, _Indexed(dataset, len(labels)), np.arange(len(labels)))


@dataclass(frozen=True, eq=False)
class _Indexed:
    """A torchvision dataset, whose items are (picture, label)."""

    dataset: Any
    count: int

    def read(self, index: int) -> np.ndarray:
        image = np.asarray(self.dataset[index][0].convert("RGB"))
        return image

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return np.zeros(self.count, dtype=np.int64)


def _labels(dataset: Any) -> Int64[np.ndarray, "N"]:
    """Labels without opening the pictures, where the dataset keeps them."""
    kept = next(
        (found for name in ("targets", "labels", "_labels") if (found := getattr(dataset, name, None)) is not None),
        None,
    )
    return np.array([dataset[i][1] for i in range(len(dataset))] if kept is None else kept, dtype=np.int64)


def _clevr(task: Task, folder: Path, seed: int) -> Parts:
    """CLEVR_v1.0: images/{train,val} and scenes/CLEVR_{train,val}_scenes.json."""
    root = next((path.parent for path in folder.rglob("scenes") if path.is_dir()), folder)
    parts = []
    for split in ("train", "val"):
        scenes = json.loads(_bytes(root / "scenes" / f"CLEVR_{split}_scenes.json", task))["scenes"]
        labels = [_clevr_label(task, scene["objects"]) for scene in scenes]
        parts.append(_named(task, root, [f"images/{split}/{scene['image_filename']}" for scene in scenes], labels))
    return *_cut(parts[0], task.shares[:2], seed), parts[1], "the official training and validation sets"  # pyrefly: ignore


def _clevr_label(task: Task, objects: Sequence[dict[str, Any]]) -> int:
    if task.name == "clevr-count":
        return vtab.clevr_count(len(objects))
    return vtab.clevr_distance([found["pixel_coords"][2] for found in objects])


def _kitti(task: Task, folder: Path, seed: int) -> Parts:
    """training/image_2/*.png and training/label_2/*.txt; the authors split by drive, which only TFDS knows."""
    root = next((path.parent for path in folder.rglob("label_2") if path.is_dir()), folder)
    files = sorted((root / "label_2").glob("*.txt"))
    if not files:
        raise DataError(f"{folder} has no label_2/*.txt", next_step=f"get it: {task.get}")
    labels = []
    for file in files:
        rows = [line.split() for line in file.read_text("utf-8").splitlines() if line.strip()]
        labels.append(vtab.kitti_distance([row[0] for row in rows], [float(row[13]) for row in rows]))
    whole = _named(task, root, [f"image_2/{file.stem}.png" for file in files], labels)
    train, val, test = _cut(whole, task.shares, seed)
    return train, val, test, f"{_percent(task.shares)} drawn by seed {seed}, not by drive as TFDS does"


def _dsprites(task: Task, folder: Path, seed: int) -> Parts:
    """One npz of 737,280 images of 0 and 1, and their latent values by number."""
    path = next(iter(sorted(folder.glob("*.npz"))), folder / "dsprites.npz")
    if not path.is_file():
        raise DataError(f"{path} is missing", next_step=f"get it: {task.get}")
    with np.load(path, allow_pickle=False) as file:
        latents, images = file["latents_classes"], file["imgs"]  # colour, shape, scale, orientation, x, y
    column, values = (4, 32) if task.name == "dsprites-location" else (3, 40)
    labels = np.array([vtab.dsprites_bin(value, values) for value in range(values)], dtype=np.int64)[latents[:, column]]
    images *= 255
    whole = from_arrays(task.name, images[:, :, :, None], labels, _names(task))
    train, val, test = _cut(whole, task.shares, seed)
    return train, val, test, f"train, val and test are {_percent(task.shares)} drawn by seed {seed}"


def _smallnorb(task: Task, folder: Path, seed: int) -> Parts:
    """NORB's binary matrices: the left camera's image; azimuth and elevation of the info file. Val is half of the
    test set.
    """
    parts = []
    for split in ("training", "testing"):
        images = _norb(_one(folder, f"*{split}*-dat.mat*", task))[:, 0]
        info = _norb(_one(folder, f"*{split}*-info.mat*", task))
        labels = info[:, 2] // 2 if task.name == "smallnorb-azimuth" else info[:, 1]  # azimuths are 0, 2, … 34
        parts.append(from_arrays(f"{task.name}-{split}", images[:, :, :, None], labels.astype(np.int64), _names(task)))
    val, test = _cut(parts[1], task.shares[1:], seed)
    return parts[0], val, test, f"the official training set; val is half of the official test set, drawn by seed {seed}"


_NORB = {0x1E3D4C55: np.uint8, 0x1E3D4C54: np.int32}


def _norb(path: Path) -> np.ndarray:
    """A matrix: magic, number of dimensions, at least three lengths, then the values, all little-endian."""
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    magic, dimensions = struct.unpack_from("<ii", content)
    if magic not in _NORB:
        raise DataError(f"{path} is not a NORB matrix", next_step="get the smallnorb-*.mat files again")
    shape = struct.unpack_from(f"<{dimensions}i", content, 8)
    values = np.frombuffer(content, np.dtype(_NORB[magic]).newbyteorder("<"), offset=8 + 4 * max(3, dimensions))
    return values.reshape(shape)


def _one(folder: Path, pattern: str, task: Task) -> Path:
    found = sorted(folder.rglob(pattern))
    if not found:
        raise DataError(f"{folder} has no {pattern}", next_step=f"get it: {task.get}")
    return found[0]


def _bytes(path: Path, task: Task) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", next_step=f"get it: {task.get}") from None


def _named(task: Task, root: Path, paths: Sequence[str], labels: Sequence[int]) -> Source:
    keys = [key_of(path) for path in paths]
    files = Files(root, keys, np.zeros(len(keys), dtype=np.int64))
    return Source(task.name, _names(task), np.array(labels, dtype=np.int64), keys, files, np.arange(len(keys)))


def _percent(shares: Sequence[float]) -> str:
    return "/".join(f"{share:.0%}" for share in shares)


READERS: dict[str, Callable[[Task, Path, int], Parts]] = {
    "folder": _folder,
    "cifar": _cifar,
    "torchvision": _torchvision,
    "clevr": _clevr,
    "kitti": _kitti,
    "dsprites": _dsprites,
    "smallnorb": _smallnorb,
}
