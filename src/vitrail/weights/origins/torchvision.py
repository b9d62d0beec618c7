"""torchvision's VisionTransformer, under the names of today and those its published files still have.

A file does not say its heads. Its published files are found by name in its table of weights.
"""

import re
from dataclasses import replace
from typing import Any

from vitrail.weights.imagenet import imagenet_classes
from vitrail.weights.name_tables import pair, pairs, tensors
from vitrail.weights.origin import CROP, ORIGINS, Checkpoint, Facts, Origin, Style

_LAYER = "encoder.layers.encoder_layer_{i}."
_PARTS = {"norm{n}": "ln_{n}", "attn.proj": "self_attention.out_proj"}
_OWN, _SWAG = "BSD-3-Clause", "CC-BY-NC-4.0"
"""Of torchvision's own weights, and of Meta's SWAG weights that it serves, too."""


def _style(*mlp: str) -> Style:
    table = (
        *tensors("", "", {"cls_token": "class_token", "positions.table": "encoder.pos_embedding"}),
        *pair("blocks.{i}.attn.qkv", _LAYER + "self_attention.in_proj", ends=("_weight", "_bias")),
        *pairs("blocks.{i}.", _LAYER, {**_PARTS, "mlp.fc1": f"mlp.{mlp[0]}", "mlp.fc2": f"mlp.{mlp[1]}"}),
        *pairs("", "", {"patch_embed": "conv_proj", "norm": "encoder.ln"}),
        *pairs("", "heads.", ["pre_logits", "head"]),
    )
    always = {"class_token", "conv_proj.weight", "encoder.pos_embedding", "encoder.ln.weight"}
    habits = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls", "position_resize": "bicubic-corners"}
    preprocess = replace(CROP, interpolation="bilinear")
    return Style(table, always | {f"encoder.layers.encoder_layer_0.mlp.{mlp[0]}.weight"}, habits, preprocess, _OWN)


def read_name(name: str) -> Facts:
    """The entry of torchvision's table for a file of that name; of another file the classes alone."""
    facts = Facts(classes=imagenet_classes())
    if not re.match(r"vit_\w+-[0-9a-f]{8}\.pth$", name):
        return facts
    from torchvision.models import get_model_weights, list_models

    for model in list_models(include=["vit_*"]):
        for weights in get_model_weights(model):
            if weights.url.endswith(f"/{name}"):
                licence = _SWAG if "_swag-" in name else _OWN
                return replace(facts, preprocess=_fields(weights.transforms()), licence=licence)
    return facts


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


ORIGIN = Origin(
    "torchvision",
    {"today's": _style("0", "3"), "published": _style("linear_1", "linear_2")},
    suffixes=(".safetensors",),
    tellable=("heads", "norm_eps"),
    published=(Checkpoint("vit_b_16-c867db91.pth", "vit-b/16", "ImageNet-1k", _OWN, 81.07),),
    read_name=read_name,
)
ORIGINS.register(ORIGIN.name, ORIGIN)
