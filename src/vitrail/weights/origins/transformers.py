"""Hugging Face transformers: ViT, DeiT, DINOv2 with registers or without; with or without the prefix of a bare model.

config.json, which lies beside, says what the tensors do not.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.weights.origins import transformers_config
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.origin import Origin, Style, pair
from vitrail.weights.origins.table import Row

_LAYER = "encoder.layer.{i}."
_UNGATED, _GATED = ("gated", False), ("gated", True)
_TEACHER = ("family", "deit")
_PLAIN = ("family", "vit")


def _table(names: Mapping[str, str], *more: Row) -> tuple[Row, ...]:
    """`names`: what the model types call the parts of a block."""
    attention = _LAYER + "attention.attention."
    qkv = tuple(attention + part for part in ("query", "key", "value"))
    return (
        *pair("patch_embed", "embeddings.patch_embeddings.projection"),
        Row("cls_token", ("embeddings.cls_token",)),
        Row("positions.table", ("embeddings.position_embeddings",)),
        *pair("blocks.{i}.attn.qkv", *qkv, layouts=("joined", "joined")),
        *pair("blocks.{i}.attn.proj", _LAYER + "attention.output.dense"),
        *(row for ours, theirs in names.items() for row in pair(f"blocks.{{i}}.{ours}", _LAYER + theirs)),
        *pair("norm", "layernorm"),
        *more,
    )


_VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
VIT = _table(
    _VIT,
    Row("registers", ("embeddings.distillation_token",)),
    *pair("pre_logits", "pooler.dense"),
    *pair("head", "classifier", when=_PLAIN),
    *pair("head.label", "cls_classifier", when=_TEACHER),
    *pair("head.teacher", "distillation_classifier", when=_TEACHER),
)
DINOV2 = _table(
    {"norm1": "norm1", "norm2": "norm2"},
    Row("mask_token", ("embeddings.mask_token",)),
    Row("registers", ("embeddings.register_tokens",)),
    *(row for part in ("fc1", "fc2") for row in pair(f"blocks.{{i}}.mlp.{part}", f"{_LAYER}mlp.{part}", when=_UNGATED)),
    *pair("blocks.{i}.mlp.fc1", _LAYER + "mlp.weights_in", when=_GATED),
    *pair("blocks.{i}.mlp.fc2", _LAYER + "mlp.weights_out", when=_GATED),
    Row("blocks.{i}.ls1.gamma", (_LAYER + "layer_scale1.lambda1",)),
    Row("blocks.{i}.ls2.gamma", (_LAYER + "layer_scale2.lambda1",)),
    *pair("head", "classifier"),
)

_ALWAYS = {"embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"}
_DISTILLED = "embeddings.distillation_token"
_DECODER = frozenset({"decoder.decoder_embed.weight"})
_SQUASH = Preprocess()  # ViTImageProcessor: straight to size, bilinear, 0.5
_CROP = Preprocess(resize="crop", interpolation="bicubic", crop_fraction=0.875, mean=IMAGENET[0], std=IMAGENET[1])
_HABITS = {"activation": "gelu", "pool": "cls", "positions_on": "all", "position_resize": "bicubic", "norm_eps": 1e-12}
_DINO = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls", "positions_on": "class"}


def _style(table: tuple[Row, ...], more: set[str], habits: Mapping[str, Any], **rest: Any) -> Style:
    return Style(table, frozenset(_ALWAYS | more), habits, licence="Apache-2.0", biases_free=True, **rest)


_OF_TODAY = (
    (r"^layers\.(\d+)\.mlp\.fc1\.", r"layers.\1.intermediate.dense."),
    (r"^layers\.(\d+)\.mlp\.fc2\.", r"layers.\1.output.dense."),
    (r"^layers\.", "encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
)
"""From what version 5 calls its modules to what all versions call them in files."""


def plain(name: str) -> str:
    """The name in a file, without the prefix of a model with a head."""
    name = re.sub(r"^(vit|deit|dinov2|dinov2_with_registers)\.", "", name)
    for theirs, filed in _OF_TODAY:
        name = re.sub(theirs, filed, name)
    return name


_BEFORE = "encoder.layer.0.layernorm_before.weight"
_SCALE = "encoder.layer.0.layer_scale1.lambda1"
_NATIVE = (518, 518)

ORIGIN = Origin(
    "transformers",
    {
        "ViT": _style(VIT, {_BEFORE}, _HABITS, preprocess=_SQUASH, never=_DECODER | {_DISTILLED}),
        "DeiT": _style(VIT, {_BEFORE, _DISTILLED}, _HABITS, preprocess=_CROP),
        "DINOv2": _style(
            DINOV2,
            {_SCALE},
            {**_DINO, "position_resize": "dinov2-size"},
            preprocess=_CROP,
            native=_NATIVE,
            never=frozenset({"embeddings.register_tokens"}),
        ),
        "DINOv2 with registers": _style(
            DINOV2,
            {_SCALE, "embeddings.register_tokens"},
            {**_DINO, "position_resize": "bicubic-antialias"},
            preprocess=_CROP,
            native=_NATIVE,
        ),
    },
    plain=plain,
)


def write(state: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """A state under the names of the model type that has such models."""
    tensors = ORIGIN.write(state, config, style=transformers_config.style_of(config))
    return transformers_config.add_prefix(tensors, config)


LIBRARY = LIBRARIES.register(
    "transformers",
    Library(suffixes=("",), writers={"vit": write, "deit": write}, describe=transformers_config.describe),
)
