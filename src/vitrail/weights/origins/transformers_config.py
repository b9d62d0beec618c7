"""transformers' config.json and our configs, both ways: one row of KINDS for each model type."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.config import read_object
from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.extras import value_of
from vitrail.models.mae import MAEConfig
from vitrail.models.resnet import GROUPS, ResNetConfig
from vitrail.weights.origin import Facts
from vitrail.weights.origins.transformers_processor import describe_processor, read_processor, read_size, write_size

_Table = Mapping[str, str]
"""Their name of a field, and ours."""
_SIZES = {
    "hidden_size": "width",
    "num_hidden_layers": "depth",
    "num_attention_heads": "heads",
    "num_channels": "channels",
}
_PIXIO: _Table = {**_SIZES, "layer_norm_eps": "norm_eps", "qkv_bias": "qkv_bias"}
_DINOV2: _Table = {**_PIXIO, "layerscale_value": "layer_scale"}
_TOWER: _Table = {**_SIZES, "layer_norm_eps": "norm_eps", "intermediate_size": "mlp_width"}
_VIT: _Table = {**_TOWER, "qkv_bias": "qkv_bias"}
_OF_DINOV3 = {"num_register_tokens": "registers", "query_bias": "qkv_bias", "layerscale_value": "layer_scale"}
_DINOV3: _Table = {**_TOWER, **_OF_DINOV3}
_DECODER: _Table = {
    "decoder_hidden_size": "decoder_width",
    "decoder_num_hidden_layers": "decoder_depth",
    "decoder_num_attention_heads": "decoder_heads",
    "decoder_intermediate_size": "decoder_mlp_width",
}
ACTIVATIONS = dict.fromkeys(("gelu", "gelu_python"), "gelu") | {"quick_gelu": "gelu-quick"}
ACTIVATIONS |= dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "quick_gelu_tanh"), "gelu-tanh"
)
_WRITTEN = {"gelu": "gelu", "gelu-tanh": "gelu_pytorch_tanh", "gelu-quick": "quick_gelu", "swiglu": "gelu"}
TANH = "gelu_pytorch_tanh"
_FIXED_OF_BIT = {"layer_type": "preactivation", "hidden_act": "relu", "num_groups": GROUPS}


USUAL = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072}
USUAL |= {
    "num_channels": 3,
    "patch_size": 16,
    "image_size": 224,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "hidden_act": "gelu",
}
"""Values that transformers takes where a file is silent. So a layer that was lost is missed."""
_SMALL = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
_SMALL |= {"query_bias": True, "num_register_tokens": 0}
_OF_PIXIO = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16, "image_size": 256}
_OF_MAE = {"decoder_width": 512, "decoder_depth": 8, "decoder_heads": 16, "decoder_mlp_width": 2048}


def _read(table: _Table, data: dict[str, Any]) -> dict[str, Any]:
    return {ours: data[theirs] for theirs, ours in table.items() if theirs in data}


def _write(table: _Table, config: Any) -> dict[str, Any]:
    return {theirs: value_of(config, ours) for theirs, ours in table.items()}


def _check(data: dict[str, Any], **allowed: Any) -> None:
    """WeightsError where a field, which leaves no trace in the tensors, has another value than the one known here."""
    for name, value in allowed.items():
        if data.get(name, value) != value:
            raise WeightsError(f"{name} {data[name]!r} in a {data['model_type']}", allowed=repr(value))


def _vit(table: _Table, data: dict[str, Any], eps: float, **silent: Any) -> dict[str, Any]:
    """The fields of all ViTs: sizes, activation, patch, and the image of the position table.

    `silent` and `eps` are what transformers takes where a file is silent, if that is not USUAL.
    """
    data = {**USUAL, "layer_norm_eps": eps, **silent, **data}
    if data["hidden_act"] not in ACTIVATIONS:
        raise WeightsError(f"hidden_act {data['hidden_act']!r}", allowed=", ".join(ACTIVATIONS))
    sides = {"patch": read_size(data["patch_size"]), "image": read_size(data["image_size"])}
    return {**_read(table, data), **sides, "activation": ACTIVATIONS[data["hidden_act"]]}


def _read_vit(data: dict[str, Any]) -> dict[str, Any]:
    _check(data, pooler_act="tanh")
    return _vit(_VIT, data, 1e-12)


def _read_dinov2(data: dict[str, Any]) -> dict[str, Any]:
    gated = {"activation": "swiglu"} if data.get("use_swiglu_ffn", False) else {}
    return _vit(_DINOV2, data, 1e-6) | gated


def _read_tipsv2(data: dict[str, Any]) -> dict[str, Any]:
    data = {"patch_size": 14, "image_size": 448, **data}
    return _read_dinov2(data) | {"position_resize": "bilinear-antialias"}


def _read_dinov3(data: dict[str, Any]) -> dict[str, Any]:
    _check(
        data, key_bias=False, value_bias=data.get("query_bias", True), proj_bias=True, mlp_bias=True, rope_theta=100.0
    )
    gated = {"activation": "swiglu"} if data.get("use_gated_mlp", False) else {}
    if gated:
        _check(data, hidden_act="silu")
        data = {**data, "hidden_act": "gelu"}
    return {**_vit(_DINOV3, data, 1e-5, **_SMALL), "positions": "rotary", "rotary": "dinov3", **gated}


def _read_clip(data: dict[str, Any]) -> dict[str, Any]:
    return _vit(_TOWER, data, 1e-5, hidden_act="quick_gelu", patch_size=32)


def _read_siglip(data: dict[str, Any]) -> dict[str, Any]:
    return _vit(_TOWER, data, 1e-6, hidden_act=TANH)


def _read_naflex(data: dict[str, Any]) -> dict[str, Any]:
    found, side = _read_siglip(data), math.isqrt(data.get("num_patches", 256))
    return {**found, "image": tuple(side * p for p in found["patch"]), "position_resize": "bilinear-antialias"}


def _read_pixio(data: dict[str, Any]) -> dict[str, Any]:
    return _vit(_PIXIO, data, 1e-6, **_OF_PIXIO)


def _read_mae(data: dict[str, Any]) -> dict[str, Any]:
    _check(data, hidden_act="gelu")  # of the decoder, too
    target = "normalised" if data.get("norm_pix_loss", False) else "pixels"
    return {"encoder": _read_vit(data), **_OF_MAE, **_read(_DECODER, data), "target": target}


def _read_bit(data: dict[str, Any]) -> dict[str, Any]:
    """Nothing: of the one kind that is read the tensors say all."""
    _check(data, **_FIXED_OF_BIT, output_stride=32, width_factor=1)
    _check(data, global_padding=None, embedding_dynamic_padding=False)
    return {}


def _dinov2_hidden(width: int, ratio: float, gated: bool) -> int:
    """The MLP's width; behind a gate two thirds of it, in steps of eight."""
    hidden = int(width * ratio)
    return (int(hidden * 2 / 3) + 7) // 8 * 8 if gated else hidden


def _describe(table: _Table, config: Any, **more: Any) -> dict[str, Any]:
    """The fields of all ViTs."""
    about = {"patch_size": write_size(config.patch), "image_size": write_size(config.image)}
    return {**_write(table, config), **about, "hidden_act": _WRITTEN[config.extras.activation], **more}


def _describe_vit(config: Any) -> dict[str, Any]:
    pooler = {"pooler_output_size": config.extras.pre_logits, "pooler_act": "tanh"} if config.extras.pre_logits else {}
    return _describe(_VIT, config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **pooler)


def _describe_dinov2(config: Any) -> dict[str, Any]:
    gated, extras = config.extras.activation == "swiglu", config.extras
    # a whole ratio where one gives this width, as transformers 5 wants it
    whole = (ratio for ratio in range(1, 65) if _dinov2_hidden(config.width, ratio, gated) == config.mlp_width)
    registers = {"num_register_tokens": extras.registers} if extras.registers else {}
    return _describe(
        _DINOV2,
        config,
        mlp_ratio=next(whole, config.mlp_width / config.width * (1.5 if gated else 1)),
        use_swiglu_ffn=gated,
        use_mask_token=extras.mask_token,
        apply_layernorm=True,
        **registers,
    )


def _describe_dinov3(config: Any) -> dict[str, Any]:
    gated, biases = config.extras.activation == "swiglu", config.extras.qkv_bias
    act = {"hidden_act": "silu"} if gated else {}
    more = {"use_gated_mlp": gated, "key_bias": False, "value_bias": biases, "rope_theta": 100.0}
    return _describe(_DINOV3, config, **more) | act


def _describe_clip(config: Any) -> dict[str, Any]:
    projection = {"projection_dim": config.extras.projection} if config.extras.projection else {}
    return _describe(_TOWER, config, **projection)


def _describe_siglip(config: Any) -> dict[str, Any]:
    return _describe(_TOWER, config, vision_use_head=config.pool == "map")


def _describe_naflex(config: Any) -> dict[str, Any]:
    about = _describe(_TOWER, config, vision_use_head=True, num_patches=math.prod(config.grid))
    del about["image_size"]
    return about


def _describe_pixio(config: Any) -> dict[str, Any]:
    return _describe(_PIXIO, config, mlp_ratio=config.mlp_width // config.width, n_cls_tokens=config.prefix)


def _describe_mae(config: MAEConfig) -> dict[str, Any]:
    if config.target == "unknown":
        raise WeightsError(
            "it is unknown whether this decoder predicts pixels or normalised ones, and config.json must say it",
            next_step='read the weights with config={"target": "pixels"} or "normalised"; nothing was written',
        )
    target = {"norm_pix_loss": config.target == "normalised"}
    return {**_describe_vit(config.encoder), **_write(_DECODER, config), **target}


def _describe_bit(config: ResNetConfig) -> dict[str, Any]:
    sizes = {"hidden_sizes": list(config.widths), "depths": list(config.depths)}
    return {**sizes, "embedding_size": config.root_width, "num_channels": config.channels, **_FIXED_OF_BIT}


@dataclass(frozen=True)
class Kind:
    """A model type: its name, the beginning of its classes' names, its config.json both ways."""

    type: str
    name: str
    read: Callable[[dict[str, Any]], dict[str, Any]]
    describe: Callable[[Any], dict[str, Any]]
    whole: str = ""
    """The model type of a file with a text tower too, whose config.json has these fields under "vision_config"."""


KINDS = {
    "ViT": Kind("vit", "ViT", _read_vit, _describe_vit),
    "DeiT": Kind("deit", "DeiT", _read_vit, _describe_vit),
    "I-JEPA": Kind("ijepa", "IJepa", _read_vit, _describe_vit),
    "MSN": Kind("vit_msn", "ViTMSN", lambda data: _vit(_VIT, data, 1e-6), lambda config: _describe(_VIT, config)),
    "DINOv2": Kind("dinov2", "Dinov2", _read_dinov2, _describe_dinov2),
    "DINOv2 with registers": Kind("dinov2_with_registers", "Dinov2WithRegisters", _read_dinov2, _describe_dinov2),
    "DINOv3": Kind("dinov3_vit", "DINOv3ViT", _read_dinov3, _describe_dinov3),
    "TIPSv2": Kind("tipsv2_vision_model", "Tipsv2Vision", _read_tipsv2, _describe_dinov2, whole="tipsv2"),
    "Pixio": Kind("pixio", "Pixio", _read_pixio, _describe_pixio),
    "SigLIP": Kind("siglip_vision_model", "SiglipVision", _read_siglip, _describe_siglip, whole="siglip"),
    "SigLIP NaFlex": Kind("siglip2_vision_model", "Siglip2Vision", _read_naflex, _describe_naflex, whole="siglip2"),
    "CLIP": Kind("clip_vision_model", "CLIPVision", _read_clip, _describe_clip, whole="clip"),
    "ViTMAE": Kind("vit_mae", "ViTMAE", _read_mae, _describe_mae),
    "BiT": Kind("bit", "Bit", _read_bit, _describe_bit),
}
"""By style."""
READERS = {kind.type: kind.read for kind in KINDS.values()} | {
    kind.whole: lambda data, read=kind.read: read({"model_type": data["model_type"], **data.get("vision_config", {})})
    for kind in KINDS.values()
    if kind.whole
}


def read_json(data: dict[str, Any], path: Path) -> Facts | None:
    """Reads config.json and preprocessor_config.json. None for the file of another origin."""
    if "model_type" not in data:
        return None
    if data["model_type"] not in READERS:
        raise WeightsError(
            f"{path} is of the model type {data['model_type']!r}",
            allowed=", ".join(READERS),
            next_step="a model that timm has too loads as timm:NAME",
        )
    processor = path.with_name("preprocessor_config.json")
    preprocess = read_processor(read_object(processor, WeightsError)) if processor.is_file() else {}
    names = data.get("id2label") or {}
    numbered = all(name.startswith("LABEL_") for name in names.values())
    return Facts(
        config=READERS[data["model_type"]](data),
        preprocess=preprocess,
        classes=() if numbered else tuple(str(names[key]) for key in sorted(names, key=int)),
        where=path.name + (f" and {processor.name}" if preprocess else ""),
    )


def describe(style: str, config: Any, preprocess: Preprocess, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """config.json and preprocessor_config.json of such a model."""
    kind = KINDS[style.removesuffix(" classifier")]
    task = "ForPreTraining" if style == "ViTMAE" else "ForImageClassification" if config.classes else "Model"
    task += "WithTeacher" if config.family == "deit" and config.classes else ""
    task += "WithProjection" if getattr(getattr(config, "extras", None), "projection", 0) else ""
    about = {"architectures": [kind.name + task], "model_type": kind.type, **kind.describe(config)}
    if config.classes and kind.whole:
        name = kind.name.removesuffix("Vision") + task
        about = {"architectures": [name], "model_type": kind.whole, "vision_config": about}
    if config.classes:
        names = classes or tuple(f"LABEL_{index}" for index in range(config.classes))
        about["id2label"] = {str(index): label for index, label in enumerate(names)}
        about["label2id"] = {label: index for index, label in enumerate(names)}
    return {"config.json": about, "preprocessor_config.json": describe_processor(preprocess)}
