"""torchvision's EfficientNet, B0 to B7: the names are its modules', regrouped; counts of batches are left out."""

import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models.efficientnet import EfficientNetConfig
from vitrail.models.zoo import skeleton
from vitrail.weights.origins.table import Foreign, Row, to_ours

NAME = "efficientnet"
SIGNATURE = {"features.0.0.weight", "features.1.0.block.1.fc1.weight", "features.8.0.weight"}
COUNT = "num_batches_tracked"
# by blocks and width of the last map: size, its image and what that is cropped from, dropout
SIZES: dict[tuple[int, int], tuple[str, int, int, float]] = {
    (16, 1280): ("b0", 224, 256, 0.2),
    (23, 1280): ("b1", 240, 256, 0.2),
    (23, 1408): ("b2", 288, 288, 0.3),
    (26, 1536): ("b3", 300, 320, 0.3),
    (32, 1792): ("b4", 380, 384, 0.4),
    (39, 2048): ("b5", 456, 456, 0.4),
    (45, 2304): ("b6", 528, 528, 0.5),
    (55, 2560): ("b7", 600, 600, 0.5),
}


def recognises(keys: Collection[str]) -> bool:
    return set(keys) >= SIGNATURE


def read(tensors: Mapping[str, Tensor], *, where: str, config: EfficientNetConfig | None = None) -> Foreign:
    """Config and tensors in our names; blocks and widths tell which of the eight it is."""
    blocks = {match[1] for name in tensors if (match := re.match(r"features\.([1-7]\.\d+)\.", name))}
    shape = (len(blocks), len(tensors["features.8.0.weight"]))
    if shape not in SIZES:
        found = f"{where} has {shape[0]} blocks and {shape[1]} channels, as no EfficientNet B0 to B7"
        raise WeightsError(found, next_step="nothing was loaded")
    size, image, scaled, dropout = SIZES[shape]
    config = config or EfficientNetConfig(
        size=size,  # pyrefly: ignore[bad-argument-type]
        image=(image, image),
        channels=tensors["features.0.0.weight"].shape[1],
        classes=len(tensors.get("classifier.1.weight", ())),
        dropout=dropout,
    )
    preprocess = Preprocess(
        size=config.image,
        resize="crop",
        crop_fraction=image / scaled,
        interpolation="bicubic",
        mean=IMAGENET[0],
        std=IMAGENET[1],
    )
    named = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNT)}
    rows = [Row(name, (_theirs(name),)) for name in skeleton(config).state_dict()]
    return Foreign(
        config, to_ours(rows, named, where=where), preprocess, "BSD-3-Clause", ("names: efficientnet, torchvision's",)
    )


def write(state: Mapping[str, Tensor], config: EfficientNetConfig, *, style: str = "") -> dict[str, Tensor]:
    """A state of ours as their tensors, counts of batches as 0."""
    theirs = {_theirs(name): tensor for name, tensor in state.items()}
    means = [name for name in theirs if name.endswith("running_mean")]
    return theirs | {name.replace("running_mean", COUNT): torch.tensor(0) for name in means}


def _theirs(name: str) -> str:
    """`features.0` is the stem, 1 to 7 the stages, 8 the last convolution."""
    name = re.sub(r"^blocks\.(\d)\.", lambda found: f"features.{int(found[1]) + 1}.", name)
    name = re.sub(r"^stem\.", "features.0.", name)
    return re.sub(r"^head\.", "classifier.1.", re.sub(r"^last\.", "features.8.", name))
