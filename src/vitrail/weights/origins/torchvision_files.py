"""What torchvision says of its own published files, which it knows by their names: preprocessing and licence."""

import re
from dataclasses import dataclass
from typing import Any

SWAG = "CC-BY-NC-4.0"
"""Of Meta's SWAG weights, which torchvision serves beside its own (BSD-3-Clause)."""


@dataclass(frozen=True)
class Published:
    """A file of torchvision's: fields of our Preprocess, and its licence."""

    preprocess: dict[str, Any]
    licence: str


def published(name: str) -> Published | None:
    """What torchvision's own table has for a file of that name; None for another file."""
    if not re.match(r"(vit|maxvit)_\w+-[0-9a-f]{8}\.pth$", name):
        return None
    from torchvision.models import get_model_weights, list_models

    for model in list_models(include=[f"{name.split('_')[0]}_*"]):
        for weights in get_model_weights(model):
            if weights.url.endswith(f"/{name}"):
                return Published(_fields(weights.transforms()), SWAG if "_swag-" in name else "BSD-3-Clause")
    return None


def _fields(made: Any) -> dict[str, Any]:
    """A classification preset: the short side to one size, the centre of another cut out."""
    size = made.crop_size[0]
    return {
        "size": (size, size),
        "resize": "crop",
        "crop_fraction": size / made.resize_size[0],
        "interpolation": made.interpolation.value,
        "mean": tuple(made.mean),
        "std": tuple(made.std),
    }
