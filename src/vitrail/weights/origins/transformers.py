"""Hugging Face transformers: ViT, DeiT, DINOv2 with registers or without, ViTMAE, BiT; with or without the prefix of a bare model.

config.json and preprocessor_config.json, which lie next to the tensors, say what these do not.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.config import read_object
from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.extras import value_of
from vitrail.models.mae import MAEConfig
from vitrail.models.resnet import GROUPS, ResNetConfig
from vitrail.models.vit import ViTConfig
from vitrail.weights.name_tables import Row, pair, pairs, prefixed
from vitrail.weights.origin import CROP, ORIGINS, Facts, Origin, Style
from vitrail.weights.origins import dinov2

_LAYER = "encoder.layer.{i}."
_UNGATED, _GATED = ("gated", False), ("gated", True)
_STUDENT, _PLAIN = ("family", "deit"), ("family", "vit")


def _attention(ours: str, theirs: str) -> tuple[Row, ...]:
    qkv = tuple(f"{theirs}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        *pair(f"{ours}attn.qkv", *qkv, layouts=("joined", "joined")),
        *pair(f"{ours}attn.proj", f"{theirs}attention.output.dense"),
    )


_BODY = (
    *pair("patch_embed", "embeddings.patch_embeddings.projection"),
    Row("cls_token", ("embeddings.cls_token",)),
    Row("positions.table", ("embeddings.position_embeddings",)),
    *_attention("blocks.{i}.", _LAYER),
    *pair("norm", "layernorm"),
)
_VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_PLAIN_VIT = (*_BODY, *pairs("blocks.{i}.", _LAYER, _VIT))
VIT = (
    *_PLAIN_VIT,
    Row("registers", ("embeddings.distillation_token",)),
    *pair("pre_logits", "pooler.dense"),
    *pair("head", "classifier", when=_PLAIN),
    *pair("head.label", "cls_classifier", when=_STUDENT),
    *pair("head.teacher", "distillation_classifier", when=_STUDENT),
)
DINOV2 = (
    *_BODY,
    *pairs("blocks.{i}.", _LAYER, {"norm1": "norm1", "norm2": "norm2"}),
    Row("mask_token", ("embeddings.mask_token",)),
    Row("registers", ("embeddings.register_tokens",)),
    *pairs("blocks.{i}.mlp.", f"{_LAYER}mlp.", {"fc1": "fc1", "fc2": "fc2"}, when=_UNGATED),
    *pairs("blocks.{i}.mlp.", f"{_LAYER}mlp.", {"fc1": "weights_in", "fc2": "weights_out"}, when=_GATED),
    Row("blocks.{i}.ls1.gamma", (_LAYER + "layer_scale1.lambda1",)),
    Row("blocks.{i}.ls2.gamma", (_LAYER + "layer_scale2.lambda1",)),
    *pair("head", "classifier"),
)
_DECODER = "decoder.decoder_layers.{i}."
MAE = (
    *prefixed(_PLAIN_VIT, "encoder.", "vit."),
    *pairs("decoder.", "decoder.decoder_", {"embed": "embed", "norm": "norm", "head": "pred"}),
    Row("decoder.mask_token", ("decoder.mask_token",)),
    *_attention("decoder.blocks.{i}.", _DECODER),
    *pairs("decoder.blocks.{i}.", _DECODER, _VIT),
    Row("decoder.positions.table", ("decoder.decoder_pos_embed",)),
)
_UNIT, _STAGE = "blocks.{b}.{u}.", "encoder.stages.{b}.layers.{u}."
BIT = (
    Row("root.weight", ("embedder.convolution.weight",)),
    *pairs(_UNIT, _STAGE, {"conv{n}": "conv{n}", "norm{n}": "norm{n}", "shortcut": "downsample.conv"}),
    *pair("norm", "norm"),
    *pair("head", "classifier.1"),
)
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


def _style(table: tuple[Row, ...], habits: Mapping[str, Any], preprocess: Preprocess, *more: str, **rest: Any) -> Style:
    always = {"embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"}
    return Style(table, always | set(more), habits, preprocess, "Apache-2.0", plain=plain, biases_free=True, **rest)


_BEFORE, _SCALE = "encoder.layer.0.layernorm_before.weight", "encoder.layer.0.layer_scale1.lambda1"
_DISTILLED, _REGISTERS = "embeddings.distillation_token", "embeddings.register_tokens"
_HABITS = {"activation": "gelu", "pool": "cls", "positions_on": "all", "position_resize": "bicubic", "norm_eps": 1e-12}
STYLES = {
    "ViT": _style(
        VIT,
        _HABITS,
        Preprocess(),  # ViTImageProcessor: straight to size, bilinear, 0.5
        _BEFORE,
        never={_DISTILLED, "decoder.decoder_embed.weight"},
        writes=lambda config: not (config.extras.layer_scale or config.extras.registers),
    ),
    "DeiT": _style(VIT, _HABITS, CROP, _BEFORE, _DISTILLED, writes=lambda config: not config.extras.layer_scale),
    "DINOv2": _style(
        DINOV2,
        {**dinov2.HABITS, "position_resize": "dinov2-size"},
        CROP,
        _SCALE,
        native=dinov2.NATIVE,
        never={_REGISTERS},
        writes=lambda config: not config.extras.registers,
    ),
    "DINOv2 with registers": _style(
        DINOV2,
        {**dinov2.HABITS, "position_resize": "bicubic-antialias"},
        CROP,
        _SCALE,
        _REGISTERS,
        native=dinov2.NATIVE,
    ),
    "ViTMAE": Style(
        MAE,
        {"decoder.mask_token", "decoder.decoder_embed.weight", "vit.embeddings.cls_token"},
        {"norm_eps": 1e-12},
        CROP,
        "CC-BY-NC-4.0 (facebookresearch/mae)",
        shapes="mae",
        # transformers 5 writes the layers of the decoder under this odd name, and cannot mean another
        plain=lambda name: name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."),
    ),
    "BiT": Style(
        BIT,
        {"embedder.convolution.weight", "encoder.stages.0.layers.0.conv1.weight"},
        {"standardise_eps": 1e-8},
        licence="Apache-2.0",
        shapes="resnet",
        plain=lambda name: name.removeprefix("bit."),
    ),
}
_HEADS = ("classifier", "cls_classifier", "distillation_classifier")


def add_prefix(style: str, tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """A model with a head has its body under the name of its type."""
    prefix = f"{KINDS[style].type}." if config.classes else ""
    return {name if name.startswith(_HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


# --- config.json

# theirs: ours, and the value that transformers takes where a file is silent
_ENCODER = {
    "hidden_size": ("width", 768),
    "num_hidden_layers": ("depth", 12),
    "num_attention_heads": ("heads", 12),
    "intermediate_size": ("mlp_width", 3072),
    "num_channels": ("channels", 3),
    "layer_norm_eps": ("norm_eps", 1e-12),
    "qkv_bias": ("qkv_bias", True),
}
_OF_DECODER = {
    "decoder_hidden_size": ("decoder_width", 512),
    "decoder_num_hidden_layers": ("decoder_depth", 8),
    "decoder_num_attention_heads": ("decoder_heads", 16),
    "decoder_intermediate_size": ("decoder_mlp_width", 2048),
}
_ACTIVATIONS = dict.fromkeys(("gelu", "gelu_python"), "gelu")
_ACTIVATIONS |= dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "quick_gelu_tanh"), "gelu-tanh"
)
_FIXED_OF_BIT = {"layer_type": "preactivation", "hidden_act": "relu", "num_groups": GROUPS}
_Table = Mapping[str, tuple[str, Any]]


def _read(table: _Table, data: dict[str, Any]) -> dict[str, Any]:
    return {ours: data.get(theirs, silent) for theirs, (ours, silent) in table.items()}


def _write(table: _Table, config: Any) -> dict[str, Any]:
    return {theirs: value_of(config, ours) for theirs, (ours, _) in table.items()}


def _read_vit(data: dict[str, Any]) -> dict[str, Any]:
    _check(data, pooler_act="tanh")
    named = data.get("hidden_act", "gelu")
    if named not in _ACTIVATIONS:
        raise WeightsError(f"hidden_act {named!r}", allowed=", ".join(_ACTIVATIONS))
    patch, image = _two(data.get("patch_size", 16)), _two(data.get("image_size", 224))
    return {**_read(_ENCODER, data), "patch": patch, "image": image, "activation": _ACTIVATIONS[named]}


def _read_dinov2(data: dict[str, Any]) -> dict[str, Any]:
    found, gated = _read_vit({"layer_norm_eps": 1e-6, **data}), data.get("use_swiglu_ffn", False)
    found["mlp_width"] = _dinov2_hidden(found["width"], data.get("mlp_ratio", 4), gated)
    return found | ({"activation": "swiglu"} if gated else {}) | {"layer_scale": data.get("layerscale_value", 1.0)}


def _read_mae(data: dict[str, Any]) -> dict[str, Any]:
    _check(data, hidden_act="gelu")  # of the decoder, too
    target = "normalised" if data.get("norm_pix_loss", False) else "pixels"
    return {"encoder": _read_vit(data), **_read(_OF_DECODER, data), "target": target}


def _read_bit(data: dict[str, Any]) -> dict[str, Any]:
    """Nothing: of the one kind that is read the tensors say all."""
    _check(data, **_FIXED_OF_BIT, output_stride=32, width_factor=1)
    _check(data, global_padding=None, embedding_dynamic_padding=False)
    return {}


def _check(data: dict[str, Any], **allowed: Any) -> None:
    """WeightsError where a field, which leaves no trace in the tensors, has another value than the one known here."""
    for name, value in allowed.items():
        if data.get(name, value) != value:
            raise WeightsError(f"{name} {data[name]!r} in a {data['model_type']}", allowed=repr(value))


def _describe_vit(config: ViTConfig) -> dict[str, Any]:
    pooler = {"pooler_output_size": config.extras.pre_logits, "pooler_act": "tanh"} if config.extras.pre_logits else {}
    return {
        **_write(_ENCODER, config),
        "patch_size": _one(config.patch),
        "image_size": _one(config.image),
        "hidden_act": "gelu_pytorch_tanh" if config.extras.activation == "gelu-tanh" else "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **pooler,
    }


def _describe_dinov2(config: ViTConfig) -> dict[str, Any]:
    gated, extras = config.extras.activation == "swiglu", config.extras
    # a whole ratio where one gives this width, as transformers 5 wants it
    whole = (ratio for ratio in range(1, 65) if _dinov2_hidden(config.width, ratio, gated) == config.mlp_width)
    about = _describe_vit(config)
    del about["intermediate_size"]
    return about | {
        "mlp_ratio": next(whole, config.mlp_width / config.width * (1.5 if gated else 1)),
        "use_swiglu_ffn": gated,
        "use_mask_token": extras.mask_token,
        "layerscale_value": extras.layer_scale,
        "apply_layernorm": True,
        **({"num_register_tokens": extras.registers} if extras.registers else {}),
    }


def _dinov2_hidden(width: int, ratio: float, gated: bool) -> int:
    """The MLP's width; behind a gate two thirds of it, in steps of eight."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _describe_mae(config: MAEConfig) -> dict[str, Any]:
    if config.target == "unknown":
        raise WeightsError(
            "it is unknown whether this decoder predicts pixels or normalised ones, and config.json must say it",
            next_step='read the weights with config={"target": "pixels"} or "normalised"; nothing was written',
        )
    target = {"norm_pix_loss": config.target == "normalised"}
    return {**_describe_vit(config.encoder), **_write(_OF_DECODER, config), **target}


def _describe_bit(config: ResNetConfig) -> dict[str, Any]:
    sizes = {"hidden_sizes": list(config.widths), "depths": list(config.depths)}
    return {**sizes, "embedding_size": config.root_width, "num_channels": config.channels, **_FIXED_OF_BIT}


@dataclass(frozen=True)
class Kind:
    """A model type: its name, which is the tensors' prefix too, the beginning of its classes' names, its config.json."""

    type: str
    name: str
    read: Callable[[dict[str, Any]], dict[str, Any]]
    describe: Callable[[Any], dict[str, Any]]


KINDS = {
    "ViT": Kind("vit", "ViT", _read_vit, _describe_vit),
    "DeiT": Kind("deit", "DeiT", _read_vit, _describe_vit),
    "DINOv2": Kind("dinov2", "Dinov2", _read_dinov2, _describe_dinov2),
    "DINOv2 with registers": Kind("dinov2_with_registers", "Dinov2WithRegisters", _read_dinov2, _describe_dinov2),
    "ViTMAE": Kind("vit_mae", "ViTMAE", _read_mae, _describe_mae),
    "BiT": Kind("bit", "Bit", _read_bit, _describe_bit),
}
"""By style."""


def read_json(data: dict[str, Any], path: Path) -> Facts | None:
    readers = {kind.type: kind.read for kind in KINDS.values()}
    if "model_type" not in data:
        return None
    if data["model_type"] not in readers:
        raise WeightsError(f"{path} is of the model type {data['model_type']!r}", allowed=", ".join(readers))
    processor = path.with_name("preprocessor_config.json")
    preprocess = _read_processor(read_object(processor, WeightsError)) if processor.is_file() else {}
    names = data.get("id2label") or {}
    numbered = all(name.startswith("LABEL_") for name in names.values())
    return Facts(
        config=readers[data["model_type"]](data),
        preprocess=preprocess,
        classes=() if numbered else tuple(str(names[key]) for key in sorted(names, key=int)),
        where=path.name + (f" and {processor.name}" if preprocess else ""),
    )


def describe(style: str, config: Any, preprocess: Preprocess, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json of such a model."""
    kind = KINDS[style]
    task = "ForPreTraining" if style == "ViTMAE" else "ForImageClassification" if config.classes else "Model"
    task += "WithTeacher" if config.family == "deit" and config.classes else ""
    about = {"architectures": [kind.name + task], "model_type": kind.type, **kind.describe(config)}
    if config.classes:
        names = classes or tuple(f"LABEL_{index}" for index in range(config.classes))
        about["id2label"] = {str(index): label for index, label in enumerate(names)}
        about["label2id"] = {label: index for index, label in enumerate(names)}
    return {"config.json": about, "preprocessor_config.json": _describe_processor(preprocess)}


# --- preprocessor_config.json

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which transformers writes."""


def _read_processor(data: dict[str, Any]) -> dict[str, Any]:
    """An image processor of transformers as fields of Preprocess."""
    size, crop = _size(data.get("size", 224)), data.get("crop_size")
    found: dict[str, Any] = {}
    if data.get("do_normalize", True) and "image_mean" in data:
        found |= {"mean": tuple(data["image_mean"]), "std": tuple(data["image_std"])}
    if data.get("resample") in _INTERPOLATIONS:
        found["interpolation"] = _INTERPOLATIONS[data["resample"]]
    if data.get("do_center_crop") and crop is not None:
        inner = _size(crop)
        fraction = min(1.0, max(inner) / min(size))
        return {**found, "size": inner, "resize": "crop", "crop_fraction": fraction}
    if data.get("crop_pct"):
        return {**found, "size": size, "resize": "crop", "crop_fraction": data["crop_pct"]}
    shortest = isinstance(data.get("size"), dict) and "shortest_edge" in data["size"]
    return {**found, "size": size, "resize": "crop" if shortest else "squash", "crop_fraction": 1.0}


def _describe_processor(preprocess: Preprocess) -> dict[str, Any]:
    height, width = preprocess.size
    about: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": next(number for number, name in _INTERPOLATIONS.items() if name == preprocess.interpolation),
    }
    if preprocess.resize == "crop" and height == width:
        edge = int(height / preprocess.crop_fraction + 1e-6)
        crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return {"image_processor_type": "BitImageProcessor", **about, "size": {"shortest_edge": edge}, **crop}
    return {"image_processor_type": "ViTImageProcessor", **about, "size": {"height": height, "width": width}}


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        side = value.get("shortest_edge")
        return (side, side) if side else (value["height"], value["width"])
    return _two(value)


def _two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _one(sides: tuple[int, int]) -> int | list[int]:
    return sides[0] if sides[0] == sides[1] else list(sides)


ORIGIN = ORIGINS.register(
    "transformers",
    Origin("transformers", STYLES, suffixes=("",), read_json=read_json, describe=describe, finish=add_prefix),
)
