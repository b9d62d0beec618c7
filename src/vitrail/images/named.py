"""Sets known by name: embedded, packaged, or where torchvision keeps them. Nothing is fetched unless it is asked for."""

import contextlib
import importlib.resources
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vitrail.errors import DataError
from vitrail.images.files import Files, key_of
from vitrail.images.heldout import own_split, split
from vitrail.images.idx import find_idx, open_idx
from vitrail.images.samples import Source, Splits, from_arrays
from vitrail.registry import Registry
from vitrail.storage import read_regular

Opener = Callable[[str, float, int, bool], Splits]
"""(name, holdout, seed, download) -> Splits"""


LARGEST = 1 << 30
"""Bytes of the largest file of a named set."""


def data_folders() -> list[Path]:
    """Where sets are looked for: `$VITRAIL_DATA`, the user's cache, and where Debian puts packaged sets."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vitrail"
    own = [Path(os.environ["VITRAIL_DATA"])] if os.environ.get("VITRAIL_DATA") else []
    return [*own, cache, Path("/usr/share/datasets")]


def _missing(name: str, what: str, reason: str = "") -> DataError:
    return DataError(
        f"{name} is not on this machine" + (f", and fetching it failed ({reason})" if reason else ""),
        next_step=f"fetch it with `download=True`, or put {what} into {data_folders()[0]} (VITRAIL_DATA names another folder)",
    )


@contextlib.contextmanager
def _fetching(name: str, what: str) -> Iterator[None]:
    """Whatever a download raises becomes an error that says where the files could be put by hand."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        raise _missing(name, what, str(error).splitlines()[0] if str(error) else type(error).__name__) from None


def _digits(name: str, holdout: float, seed: int, download: bool) -> Splits:
    """1,797 handwritten digits of 8×8 (UCI Optical Recognition of Handwritten Digits, its test part; CC BY 4.0)."""
    with importlib.resources.files("vitrail.images").joinpath("digits.npz").open("rb") as file:
        stored = np.load(file, allow_pickle=False)
        images, labels = stored["images"], stored["labels"]
    scaled = np.rint(images * (255 / 16)).astype(np.uint8)  # stored as the counts 0 … 16 they were published as
    source = from_arrays(name, scaled[..., None], labels.astype(np.int64), tuple("0123456789"))
    return split(source, holdout, seed)


@dataclass(frozen=True)
class IdxSet:
    """A set of the MNIST family."""

    kind: str
    """Its class in torchvision.datasets, and the folder where that keeps it."""
    classes: tuple[str, ...]

    def __call__(self, name: str, holdout: float, seed: int, download: bool) -> Splits:
        found = self._find(name)
        if found is None and download:
            with _fetching(name, "its IDX files"):
                from torchvision import datasets

                for train in (True, False):
                    getattr(datasets, self.kind)(data_folders()[0], train=train, download=True)
            found = self._find(name)
        if found is None:
            raise _missing(name, f"its IDX files as {name}/ (Debian packages some: dataset-{name})")
        return open_idx(found, holdout=holdout, seed=seed, name=name, classes=self.classes)

    def _find(self, name: str) -> Path | None:
        places = (folder / sub for folder in data_folders() for sub in (name, f"{self.kind}/raw", self.kind))
        return next((place for place in places if place.is_dir() and find_idx(place)), None)


@dataclass(frozen=True)
class CifarSet:
    """CIFAR's binary version: records of label bytes and 3,072 pixels. (Its Python version is a pickle, and never opened.)"""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    label_bytes: int
    url: str
    md5: str

    def __call__(self, name: str, holdout: float, seed: int, download: bool) -> Splits:
        places = [folder / self.folder for folder in data_folders()]
        found = next((place for place in places if (place / self.names).is_file()), None)
        if found is None and download:
            with _fetching(name, f"its binary version as {self.folder}/"):
                from torchvision.datasets.utils import download_and_extract_archive

                download_and_extract_archive(self.url, str(data_folders()[0]), md5=self.md5)
                found = places[0]
        if found is None:
            raise _missing(name, f"its binary version as {self.folder}/")
        try:
            classes = tuple(read_regular(found / self.names, LARGEST).decode("ascii").split())
            files = {"train": self.train, "test": self.test}
            parts = {part: self._read(found, names, f"{name}/{part}", classes) for part, names in files.items()}
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{found} is not whole ({error})", next_step="fetch it again") from None
        return own_split(parts, "set's")

    def _read(self, folder: Path, files: tuple[str, ...], name: str, classes: tuple[str, ...]) -> Source:
        data = np.frombuffer(b"".join(read_regular(folder / file, LARGEST) for file in files), np.uint8)
        width = self.label_bytes + 3072
        if len(data) % width or not len(data):
            raise DataError(
                f"{folder}: {', '.join(files)} do not hold records of {width} bytes", next_step="fetch it again"
            )
        records = data.reshape(-1, width)
        labels = records[:, self.label_bytes - 1].astype(np.int64)
        images = records[:, self.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
        return from_arrays(name, np.ascontiguousarray(images), labels, classes)


@dataclass(frozen=True)
class TorchvisionSet:
    """A set that torchvision knows how to fetch and list; its files are read and decoded by us."""

    kind: str
    """Its class in torchvision.datasets."""
    parts: dict[str, dict[str, Any]] = field(default_factory=lambda: {p: {"split": p} for p in ("train", "test")})
    """Part -> arguments of that class; one part without a name is split here."""

    def __call__(self, name: str, holdout: float, seed: int, download: bool) -> Splits:
        sources = {part: self._open(name, options, download) for part, options in self.parts.items()}
        if "train" not in sources:
            return split(sources[""], holdout, seed)
        return own_split(sources, "set's")

    def _open(self, name: str, options: dict[str, Any], download: bool) -> Source:
        from torchvision import datasets

        kind = getattr(datasets, self.kind)
        for folder in data_folders():
            with contextlib.suppress(RuntimeError, FileNotFoundError):  # "Dataset not found"
                return _listed(name, folder, self._made(kind, folder, options))
        if not download:
            raise _missing(name, "what torchvision keeps of it")
        with _fetching(name, "what torchvision keeps of it"):
            data_folders()[0].mkdir(parents=True, exist_ok=True)
            return _listed(name, data_folders()[0], self._made(kind, data_folders()[0], {**options, "download": True}))

    def _made(self, kind: Any, folder: Path, options: dict[str, Any]) -> Any:
        try:
            return kind(str(folder), **options)
        except ImportError as error:
            raise DataError(
                f"{self.kind} needs a package that is not here ({error})", next_step="pip install scipy"
            ) from None


def _listed(name: str, folder: Path, dataset: Any) -> Source:
    """The images that a torchvision dataset lists; its classes do so in several ways."""
    if isinstance(getattr(dataset, "data", None), np.ndarray):
        labels = np.asarray(dataset.labels if hasattr(dataset, "labels") else dataset.targets, np.int64)
        classes = tuple(getattr(dataset, "classes", None) or map(str, range(int(labels.max()) + 1)))
        return from_arrays(name, np.ascontiguousarray(dataset.data.transpose(0, 2, 3, 1)), labels, classes)
    pairs = getattr(dataset, "_samples", None) or getattr(dataset, "samples", None)
    paths = [path for path, _ in pairs] if pairs else getattr(dataset, "_image_files", None) or dataset._images
    labels = np.array([label for _, label in pairs] if pairs else dataset._labels, np.int64)
    keys = [key_of(os.path.relpath(path, folder)) for path in paths]
    sizes = np.array([os.path.getsize(path) for path in paths], np.int64)
    names = getattr(dataset, "classes", None) or range(int(labels.max()) + 1)
    classes = tuple(
        word if isinstance(word, str) else str(word[0] if isinstance(word, tuple) else word) for word in names
    )
    return Source(name, classes, labels, keys, Files(folder.resolve(), keys, sizes), np.arange(len(keys)))


FASHION = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
_CIFAR = "https://www.cs.toronto.edu/~kriz/"
_THREE = {part: {"split": part} for part in ("train", "val", "test")}
_TRAINVAL = {"train": {"split": "trainval"}, "test": {"split": "test"}}

NAMED = Registry[Opener]("named set", {
    "digits": _digits,
    "mnist": IdxSet("MNIST", tuple("0123456789")),
    "fashion-mnist": IdxSet("FashionMNIST", FASHION),
    "kmnist": IdxSet("KMNIST", ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")),
    "cifar10": CifarSet(
        "cifar-10-batches-bin", tuple(f"data_batch_{n}.bin" for n in range(1, 6)), ("test_batch.bin",), "batches.meta.txt",
        1, _CIFAR + "cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530",
    ),
    "cifar100": CifarSet(
        "cifar-100-binary", ("train.bin",), ("test.bin",), "fine_label_names.txt",
        2, _CIFAR + "cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8",
    ),
    "svhn": TorchvisionSet("SVHN"),
    "stl10": TorchvisionSet("STL10"),
    "flowers102": TorchvisionSet("Flowers102", _THREE),
    "oxford-pets": TorchvisionSet("OxfordIIITPet", _TRAINVAL),
    "food101": TorchvisionSet("Food101"),
    "dtd": TorchvisionSet("DTD", _THREE),
    "fgvc-aircraft": TorchvisionSet("FGVCAircraft", _TRAINVAL),
    "gtsrb": TorchvisionSet("GTSRB"),
    "imagenette": TorchvisionSet("Imagenette", {part: {"split": part} for part in ("train", "val")}),
    "country211": TorchvisionSet(
        "Country211", {"train": {"split": "train"}, "val": {"split": "valid"}, "test": {"split": "test"}}
    ),
    "eurosat": TorchvisionSet("EuroSAT", {"": {}}),
    "sun397": TorchvisionSet("SUN397", {"": {}}),
})  # fmt: skip
"""Sets that are known by name."""
