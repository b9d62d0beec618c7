"""VTAB-1k (Zhai et al. 2019, arXiv 1910.04867): 19 tasks in three groups, 1000 labelled images each, the whole test set.

One literal table, and `open_task`, which reads a prepared copy: a folder for each task with images and the lists
train800.txt, val200.txt and test.txt. Such copies are published; the authors' code makes them from the original files.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vitrail.errors import ConfigError, DataError, suggest
from vitrail.images.files import Files, key_of
from vitrail.images.samples import Source, Splits
from vitrail.storage import open_regular, read_regular

LARGEST = 64 << 20
"""Bytes of the longest list."""
Group = Literal["natural", "specialised", "structured"]


@dataclass(frozen=True)
class Task:
    """One row of the benchmark."""

    name: str
    group: Group
    classes: int
    test: int
    """Images of the test set."""
    folder: str
    """Its folder below the root, as the prepared copies of VTAB-1k call it."""
    vit_l16: float
    """Accuracy of ViT-L/16 pre-trained on ImageNet-21k, fine-tuned (ViT paper, Table 9), in percent."""


TASKS: tuple[Task, ...] = (
    Task("caltech101", "natural", 102, 6_084, "caltech101", 90.8),
    Task("cifar100", "natural", 100, 10_000, "cifar", 84.1),
    Task("dtd", "natural", 47, 1_880, "dtd", 74.1),
    Task("flowers102", "natural", 102, 6_149, "oxford_flowers102", 99.3),
    Task("pets", "natural", 37, 3_669, "oxford_iiit_pet", 92.7),
    Task("sun397", "natural", 397, 21_750, "sun397", 61.0),
    Task("svhn", "natural", 10, 26_032, "svhn", 80.9),
    Task("camelyon", "specialised", 2, 32_768, "patch_camelyon", 82.5),
    Task("eurosat", "specialised", 10, 5_400, "eurosat", 95.6),
    Task("resisc45", "specialised", 45, 6_300, "resisc45", 85.2),
    Task("retinopathy", "specialised", 5, 42_670, "diabetic_retinopathy", 75.3),
    Task("clevr-count", "structured", 8, 15_000, "clevr_count", 70.3),
    Task("clevr-distance", "structured", 6, 15_000, "clevr_dist", 56.1),
    Task("dmlab", "structured", 6, 22_735, "dmlab", 41.9),
    Task("kitti-distance", "structured", 4, 711, "kitti", 79.9),
    Task("dsprites-location", "structured", 16, 73_728, "dsprites_loc", 74.7),
    Task("dsprites-orientation", "structured", 16, 73_728, "dsprites_ori", 64.9),
    Task("smallnorb-azimuth", "structured", 18, 12_150, "smallnorb_azi", 30.5),
    Task("smallnorb-elevation", "structured", 9, 12_150, "smallnorb_ele", 41.7),
)

PUBLISHED = {"ViT-H/14 (JFT)": 77.6, "ViT-L/16 (JFT)": 76.3, "ViT-L/16 (ImageNet-21k)": 72.7}
"""Means over the 19 tasks after fine-tuning, in percent (ViT paper, Table 9)."""


def task(name: str) -> Task:
    """A task by name; ConfigError with a suggestion otherwise."""
    for found in TASKS:
        if found.name == name:
            return found
    names = [found.name for found in TASKS]
    raise ConfigError(f"VTAB has no task {name!r}", allowed=", ".join(names), next_step=suggest(name, names))


@dataclass(frozen=True)
class Mean:
    """The mean of a group or of all, over what ran."""

    name: str
    accuracy: float | None
    ran: int
    of: int

    @property
    def complete(self) -> bool:
        return self.ran == self.of


def means(accuracies: Mapping[str, float]) -> list[Mean]:
    """Group means and the mean over tasks, of the tasks that ran; each says how many those are."""
    groups: Sequence[Group] = ("natural", "specialised", "structured")
    parts = {name: [found.name for found in TASKS if found.group == name] for name in groups}
    parts = {**parts, "all 19": [found.name for found in TASKS]}
    return [
        mean_of(name, [accuracies[each] for each in of if each in accuracies], len(of)) for name, of in parts.items()
    ]


def mean_of(name: str, values: Sequence[float], of: int) -> Mean:
    return Mean(name, sum(values) / len(values) if values else None, len(values), of)


# --- prepared copies --------------------------------------------------------------------------------------------------


def open_task(task: Task, root: Path) -> Splits:
    """The images that the lists in `root/<task.folder>` or `root/<task.name>` name. Raises DataError for a missing task."""
    folder = next((root / name for name in (task.folder, task.name) if (root / name / "test.txt").is_file()), None)
    if folder is None:
        raise DataError(
            f"{task.name} is not in {root}",
            allowed=f"{root / task.folder} with images and the lists train800.txt, val200.txt and test.txt",
            next_step="unpack a prepared copy of VTAB-1k there",
        )
    train, val, test = (_read_list(task, folder, name) for name in ("train800", "val200", "test"))
    return Splits(train, test, "VTAB's 800 images to train on, 200 to choose settings by, and the whole test set", val)


def _read_list(task: Task, folder: Path, name: str) -> Source:
    """Lines of `path label`, paths below the folder."""
    path = folder / f"{name}.txt"
    try:
        lines = [line.rsplit(maxsplit=1) for line in read_regular(path, LARGEST).decode().splitlines() if line.strip()]
        labels = np.array([int(label) for _, label in lines], dtype=np.int64)
        sizes = np.array([_size(folder / image) for image, _ in lines], dtype=np.int64)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} or an image it names cannot be read ({error})", allowed="lines of `path label`"
        ) from None
    if not len(labels) or labels.min() < 0 or labels.max() >= task.classes:
        raise DataError(f"{path} has no lines, or labels outside the task's {task.classes} classes")
    keys = [key_of(image) for image, _ in lines]
    classes = tuple(map(str, range(task.classes)))
    return Source(task.name, classes, labels, keys, Files(folder, keys, sizes), np.arange(len(keys)))


def _size(image: Path) -> int:
    """Bytes of an image that a list names. Raises OSError for a folder, pipe or device."""
    with open_regular(image) as file:
        return os.fstat(file.fileno()).st_size
