"""Hugging Face transformers: ViT, DeiT, DINOv2 with registers or without; with or without the prefix of a bare model.

config.json, which lies beside, says what the tensors do not.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models.vit import ViTConfig
from vitrail.weights.sources.origin import Origin, Style, pair
from vitrail.weights.sources.table import Row

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


# --- writing: config.json says what the tensors do not

_KINDS = {
    "ViT": ("vit", "ViT"),
    "DeiT": ("deit", "DeiT"),
    "DINOv2": ("dinov2", "Dinov2"),
    "DINOv2 with registers": ("dinov2_with_registers", "Dinov2WithRegisters"),
}
"""By style: the model type, which is the tensors' prefix too, and what its classes' names begin with."""
_HEADS = ("classifier", "cls_classifier", "distillation_classifier")


def style_of(config: ViTConfig) -> str:
    """The style that has names for such a model."""
    if config.layer_scale:
        return "DINOv2 with registers" if config.registers else "DINOv2"
    return "DeiT" if config.registers else "ViT"


def prefixed(tensors: Mapping[str, Tensor], config: ViTConfig) -> dict[str, Tensor]:
    """A model with a head has its body under the name of its type."""
    prefix = f"{_KINDS[style_of(config)][0]}." if config.classes else ""
    return {name if name.startswith(_HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


def files_beside(config: ViTConfig, preprocess: Preprocess, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json of such a model."""
    kind, name = _KINDS[style_of(config)]
    teacher = "WithTeacher" if config.family == "deit" else ""
    about: dict[str, Any] = {
        "architectures": [f"{name}ForImageClassification{teacher}" if config.classes else f"{name}Model"],
        "model_type": kind,
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "patch_size": _one(config.patch),
        "image_size": _one(config.image),
        "num_channels": config.channels,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": {"gelu-tanh": "gelu_pytorch_tanh"}.get(config.activation, "gelu"),
        "qkv_bias": config.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    if kind.startswith("dinov2"):
        about |= _of_dinov2(config)
    else:
        about |= {"intermediate_size": config.mlp_width}
        about |= {"pooler_output_size": config.pre_logits, "pooler_act": "tanh"} if config.pre_logits else {}
    if config.classes:
        names = classes or tuple(f"LABEL_{index}" for index in range(config.classes))
        about["id2label"] = {str(index): label for index, label in enumerate(names)}
        about["label2id"] = {label: index for index, label in enumerate(names)}
    return {"config.json": about, "preprocessor_config.json": _processor(preprocess)}


def _of_dinov2(config: ViTConfig) -> dict[str, Any]:
    gated = config.activation == "swiglu"
    return {
        "mlp_ratio": _ratio(config.width, config.mlp_width, gated),
        "use_swiglu_ffn": gated,
        "use_mask_token": config.mask_token,
        "layerscale_value": config.layer_scale,
        "apply_layernorm": True,
        **({"num_register_tokens": config.registers} if config.registers else {}),
    }


def hidden_of_dinov2(width: int, ratio: float, gated: bool) -> int:
    """The MLP's width; behind a gate two thirds of it, in steps of eight."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _ratio(width: int, hidden: int, gated: bool) -> float:
    """A whole ratio where one gives this width, as transformers 5 wants it."""
    whole = (ratio for ratio in range(1, 65) if hidden_of_dinov2(width, ratio, gated) == hidden)
    return next(whole, hidden / width * (1.5 if gated else 1))


def _processor(preprocess: Preprocess) -> dict[str, Any]:
    height, width = preprocess.size
    numbers = {"nearest": 0, "bilinear": 2, "bicubic": 3}
    about: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": numbers[preprocess.interpolation],
    }
    if preprocess.resize == "crop" and height == width:
        edge = int(height / preprocess.crop_fraction + 1e-6)
        crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return {"image_processor_type": "BitImageProcessor", **about, "size": {"shortest_edge": edge}, **crop}
    return {"image_processor_type": "ViTImageProcessor", **about, "size": {"height": height, "width": width}}


def _one(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(sides)
