"""VTAB-1k (Zhai et al. 2019, arXiv 1910.04867): 19 tasks in three groups, 1000 labelled images each, the whole test
set.

One literal table. Base splits, labels and bins are those of the authors' `task_adaptation/data`; `vtab_data` reads
the files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vitrail.errors import ConfigError, suggest

Group = Literal["natural", "specialised", "structured"]
TRAIN, VAL = 800, 200
"""Images to learn from, and to choose hyper-parameters by; the final training uses all 1000."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row of the benchmark."""

    name: str
    group: Group
    classes: int
    test: int
    """Images of the test set."""
    folder: str
    """What its folder is called below the root, as the prepared copies of VTAB-1k have it."""
    reader: Literal["folder", "cifar", "torchvision", "clevr", "kitti", "dsprites", "smallnorb"]
    shares: tuple[float, float, float]
    """Of the images without an official split, for train, val and test; an official test set has share 0 here."""
    vit_l16: float
    """Accuracy of ViT-L/16 pre-trained on ImageNet-21k, fine-tuned (ViT paper, Table 9), in percent."""
    get: str
    """How to come by the original files."""


def _task(
    name: str, group: Group, classes: int, test: int, folder: str, reader, shares, vit_l16: float, get: str
) -> Task:
    return Task(
        name=name,
        group=group,
        classes=classes,
        test=test,
        folder=folder,
        reader=reader,
        shares=shares,
        vit_l16=vit_l16,
        get=get,
    )


# fmt: off
TASKS: tuple[Task, ...] = (
    _task("caltech101", "natural", 102, 6_084, "caltech101", "folder", (0.9, 0.1, 0.0), 90.8,
          "101_ObjectCategories of data.caltech.edu/records/mzrjq-6wc02, one folder a class"),
    _task("cifar100", "natural", 100, 10_000, "cifar", "cifar", (0.9, 0.1, 0.0), 84.1,
          "the binary version, cifar-100-binary, of www.cs.toronto.edu/~kriz/cifar.html"),
    _task("dtd", "natural", 47, 1_880, "dtd", "torchvision", (0.0, 0.0, 0.0), 74.1,
          "torchvision.datasets.DTD(root, download=True)"),
    _task("flowers102", "natural", 102, 6_149, "oxford_flowers102", "torchvision", (0.0, 0.0, 0.0), 99.3,
          "torchvision.datasets.Flowers102(root, download=True)"),
    _task("pets", "natural", 37, 3_669, "oxford_iiit_pet", "torchvision", (0.8, 0.2, 0.0), 92.7,
          "torchvision.datasets.OxfordIIITPet(root, download=True)"),
    _task("sun397", "natural", 397, 21_750, "sun397", "torchvision", (0.7, 0.1, 0.2), 61.0,
          "torchvision.datasets.SUN397(root, download=True)"),
    _task("svhn", "natural", 10, 26_032, "svhn", "torchvision", (0.9, 0.1, 0.0), 80.9,
          "torchvision.datasets.SVHN(root, split, download=True), train and test"),
    _task("camelyon", "specialised", 2, 32_768, "patch_camelyon", "torchvision", (0.0, 0.0, 0.0), 82.5,
          "torchvision.datasets.PCAM(root, split, download=True), train, val and test"),
    _task("eurosat", "specialised", 10, 5_400, "eurosat", "folder", (0.6, 0.2, 0.2), 95.6,
          "EuroSAT RGB of github.com/phelber/EuroSAT, one folder a class"),
    _task("resisc45", "specialised", 45, 6_300, "resisc45", "folder", (0.6, 0.2, 0.2), 85.2,
          "NWPU-RESISC45 by hand from its authors, one folder a class"),
    _task("retinopathy", "specialised", 5, 42_670, "diabetic_retinopathy", "folder", (0.0, 0.0, 0.0), 75.3,
          "kaggle.com/c/diabetic-retinopathy-detection by hand, cropped to 300 pixels (btgraham): train/ val/ test/"),
    _task("clevr-count", "structured", 8, 15_000, "clevr_count", "clevr", (0.9, 0.1, 0.0), 70.3,
          "CLEVR_v1.0.zip of cs.stanford.edu/people/jcjohns/clevr"),
    _task("clevr-distance", "structured", 6, 15_000, "clevr_dist", "clevr", (0.9, 0.1, 0.0), 56.1,
          "CLEVR_v1.0.zip of cs.stanford.edu/people/jcjohns/clevr"),
    _task("dmlab", "structured", 6, 22_735, "dmlab", "folder", (0.0, 0.0, 0.0), 41.9,
          "the frames of storage.googleapis.com/akolesnikov-dmlab-data, written out as train/ val/ test/ of classes"),
    _task("kitti-distance", "structured", 4, 711, "kitti", "kitti", (0.8, 0.1, 0.1), 79.9,
          "left colour images and labels of cvlibs.net/datasets/kitti, object detection"),
    _task("dsprites-location", "structured", 16, 73_728, "dsprites_loc", "dsprites", (0.8, 0.1, 0.1), 74.7,
          "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz of github.com/google-deepmind/dsprites-dataset"),
    _task("dsprites-orientation", "structured", 16, 73_728, "dsprites_ori", "dsprites", (0.8, 0.1, 0.1), 64.9,
          "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz of github.com/google-deepmind/dsprites-dataset"),
    _task("smallnorb-azimuth", "structured", 18, 12_150, "smallnorb_azi", "smallnorb", (1.0, 0.5, 0.5), 30.5,
          "the twelve smallnorb-*.mat files of cs.nyu.edu/~ylclab/data/norb-v1.0-small"),
    _task("smallnorb-elevation", "structured", 9, 12_150, "smallnorb_ele", "smallnorb", (1.0, 0.5, 0.5), 41.7,
          "the twelve smallnorb-*.mat files of cs.nyu.edu/~ylclab/data/norb-v1.0-small"),
)
# fmt: on

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
    return [_mean(name, [accuracies[each] for each in of if each in accuracies], len(of)) for name, of in parts.items()]


def _mean(name: str, values: Sequence[float], of: int) -> Mean:
    return Mean(name, sum(values) / len(values) if values else None, len(values), of)


# --- labels ----------------------------------------------------------------------------------------------------------

CLEVR_EDGES = (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)
KITTI_EDGES = (-100.0, 8.0, 20.0, 999.0)
NO_VEHICLE = 1000.0


def bin_of(value: float, edges: Sequence[float]) -> int:
    """The last edge below the value: a value on an edge belongs to the bin under it."""
    below = [index for index, edge in enumerate(edges) if edge < value]
    assert below, f"{value} is under all of {edges}"
    return below[-1]


def clevr_count(objects: int) -> int:
    """3 to 10 objects: 8 classes."""
    return objects - 3


def clevr_distance(depths: Sequence[float]) -> int:
    """The nearest object, by the third of its pixel coordinates."""
    return bin_of(min(depths), CLEVR_EDGES)


def kitti_distance(kinds: Sequence[str], depths: Sequence[float]) -> int:
    """The nearest car, van or truck, in metres ahead; without one the last class."""
    vehicles = [z for kind, z in zip(kinds, depths, strict=True) if kind in ("Car", "Van", "Truck")]
    return bin_of(min([*vehicles, NO_VEHICLE]), KITTI_EDGES)


def dsprites_bin(value: int, values: int) -> int:
    """16 classes out of 32 places or 40 angles: floor(value / (values / 16))."""
    return int(value // (values / 16))
