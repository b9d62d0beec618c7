"""torchvision's VisionTransformer, under the names of today and those its published files still have.

A file does not say its heads.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.origin import Origin, Style, pair
from vitrail.weights.origins.table import Row

_LAYER = "encoder.layers.encoder_layer_{i}."

TABLE = (
    *pair("patch_embed", "conv_proj"),
    Row("cls_token", ("class_token",)),
    Row("positions.table", ("encoder.pos_embedding",)),
    *pair("blocks.{i}.norm1", _LAYER + "ln_1"),
    *pair("blocks.{i}.attn.qkv", _LAYER + "self_attention.in_proj", ends=("_weight", "_bias")),
    *pair("blocks.{i}.attn.proj", _LAYER + "self_attention.out_proj"),
    *pair("blocks.{i}.norm2", _LAYER + "ln_2"),
    *pair("blocks.{i}.mlp.fc1", _LAYER + "mlp.0"),
    *pair("blocks.{i}.mlp.fc2", _LAYER + "mlp.3"),
    *pair("norm", "encoder.ln"),
    *pair("pre_logits", "heads.pre_logits"),
    *pair("head", "heads.head"),
)
PUBLISHED = tuple(
    dataclasses.replace(
        row, theirs=tuple(n.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2.") for n in row.theirs)
    )
    for row in TABLE
)
_SIGNATURE = frozenset({"class_token", "conv_proj.weight", "encoder.pos_embedding", "encoder.ln.weight"})
_HABITS = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls", "position_resize": "bicubic-corners"}
_CROP = Preprocess(resize="crop", crop_fraction=0.875, mean=IMAGENET[0], std=IMAGENET[1])


def _style(table: tuple[Row, ...], mlp: str) -> Style:
    return Style(
        table, _SIGNATURE | {f"encoder.layers.encoder_layer_0.mlp.{mlp}.weight"}, _HABITS, _CROP, "BSD-3-Clause"
    )


ORIGIN = Origin("torchvision", {"today's": _style(TABLE, "0"), "published": _style(PUBLISHED, "linear_1")})
LIBRARY = LIBRARIES.register(
    "torchvision",
    Library(suffixes=(".safetensors",), writers={"vit": ORIGIN.write}, tellable=("heads", "norm_eps")),
)


# --- published files

SWAG = "CC-BY-NC-4.0"
"""Of Meta's SWAG weights, which torchvision serves beside its own (BSD-3-Clause)."""


@dataclass(frozen=True)
class Published:
    """A file of torchvision's: fields of our Preprocess, and its licence."""

    preprocess: dict[str, Any]
    licence: str


def published(name: str) -> Published | None:
    """The entry of torchvision's table for a file of that name; None for another file."""
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
