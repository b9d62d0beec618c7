"""The table of features: what one pass of a model gives, what files keep, and what every protocol starts from."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.images.preprocess import Preprocess

SPLITS = ("train", "test", "val")


@dataclass(frozen=True, kw_only=True)
class About:
    """The model and data of a table. Two tables of one digest, layer and preprocess may be compared."""

    model: str
    digest: str
    """sha256 over the model's tensors; "pixels" for none."""
    layer: str
    """"pooled", or the blocks and the pooling: "11", "9 10 11 12 cls"."""
    preprocess: Preprocess
    classes: tuple[str, ...]
    data: str = ""
    fingerprints: tuple[str, ...] = ()
    """Fingerprints of the sources, one for each split in the file."""

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks whose features lie side by side; none where they are what the head reads, or pixels."""
        return tuple(int(word) for word in self.layer.split() if word.isdigit())


ABOUT = About(model="", digest="", layer="", preprocess=Preprocess(), classes=())


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """N images in order, and what a model made of them, in float32 on the CPU."""

    features: Float[Tensor, "N D"]
    """Features of the head's input or of blocks, pixels, or logits."""
    labels: Int[Tensor, "N"] | Float[Tensor, "N K"]
    """Classes (-1: unlabelled), or 0 and 1 for each class where an image can have several."""
    splits: Int[Tensor, "N"]
    """0 train, 1 test, 2 val; 0 where no split is known."""
    keys: tuple[str, ...]
    about: About = ABOUT

    def __post_init__(self) -> None:
        counts = [len(part) for part in (self.features, self.labels, self.splits, self.keys)]
        if len(set(counts)) > 1 or not set(self.splits.unique().tolist()) <= set(range(len(SPLITS))):
            raise DataError(
                "features of {} images with {} labels, {} splits and {} keys".format(*counts),
                allowed="one of each an image, splits " + ", ".join(f"{k} {name}" for k, name in enumerate(SPLITS)),
                next_step="make them again with `vitrail embed`",
            )

    def at(self, blocks: Sequence[int]) -> "FeatureTable":
        """The features of these blocks only. Raises ConfigError for one that is not in the table."""
        there = self.about.blocks
        if not blocks:
            return self
        if absent := [block for block in blocks if block not in there]:
            raise ConfigError(
                f"layer {absent[0]} of features of {self.about.layer}",
                allowed=", ".join(map(str, there)) or "no layer: these are what the head reads",
                next_step=f"keep the layers you need with `vitrail embed` and `layer={blocks}`",
            )
        width = self.features.shape[1] // len(there)
        parts = [self.features[:, place * width : (place + 1) * width] for place in map(there.index, blocks)]
        pool = self.about.layer.split()[-1]
        about = dataclasses.replace(self.about, layer=" ".join(map(str, [*blocks, pool])))
        return dataclasses.replace(self, about=about, features=torch.cat(parts, 1) if len(parts) > 1 else parts[0])

    def part(self, split: str) -> Labelled:
        """The checked features of one split. Raises DataError where the file has none or labels are missing."""
        rows = self.splits == SPLITS.index(split)
        if not rows.any():
            there = [name for index, name in enumerate(SPLITS) if (self.splits == index).any()]
            raise DataError(f"these features have no {split} images", allowed=", ".join(there))
        return labelled(self.features[rows], self.labels[rows], len(self.about.classes) or None)


def check_same_model(first: About, second: About) -> None:
    """Raises DataError unless both were made by one model, at one layer, from images prepared alike."""
    for name in ("digest", "layer", "preprocess", "classes"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            what = {"digest": "of different models"}.get(name, f"with different {name}")
            shown = f"{first.model} and {second.model}" if name == "digest" else f"{one} and {other}"
            raise DataError(f"features {what}: {shown}", next_step="extract both again with the same model and options")


def join(parts: Sequence[FeatureTable]) -> FeatureTable:
    """Several tables of one model as one."""
    first = parts[0]
    for part in parts[1:]:
        check_same_model(first.about, part.about)
    prints = tuple(text for part in parts for text in part.about.fingerprints)
    return FeatureTable(
        torch.cat([part.features for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.splits for part in parts]),
        tuple(key for part in parts for key in part.keys),
        dataclasses.replace(first.about, fingerprints=prints),
    )
