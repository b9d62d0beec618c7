"""JSON files next to weights: transformers' config.json and preprocessor_config.json, timm's config.json, or fields of a
config of Vitrail.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.weights.files.json_file import read_object
from vitrail.weights.origins import timm_config
from vitrail.weights.origins.transformers_config import hidden_of_dinov2

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"

ACTIVATIONS = dict.fromkeys(("gelu", "gelu_python"), "gelu")
ACTIVATIONS |= dict.fromkeys(
    ("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_tanh", "quick_gelu_tanh"), "gelu-tanh"
)
INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which transformers writes."""


@dataclass(frozen=True)
class Beside:
    """What the files beside say: fields of our config, of our preprocessing, names of classes, and who said so."""

    config: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    licence: str = ""
    where: str = ""

    def prepared(self, preprocess: Preprocess) -> Preprocess:
        return dataclasses.replace(preprocess, **self.preprocess)


def beside(path: Path) -> Beside:
    """Reads config.json or NAME.json next to the weights; empty if there is none."""
    for name in (f"{path.stem}.json", CONFIG):
        if (path.parent / name).is_file() and name != path.name:  # an index of shards is JSON itself
            return _understood(read_object(path.parent / name), path.parent / name)
    return Beside()


def _understood(data: dict[str, Any], path: Path) -> Beside:
    try:
        if "model_type" in data:
            return _transformers(data, path)
        if "pretrained_cfg" in data or "architecture" in data:
            prepared = timm_config.preprocess(data.get("pretrained_cfg") or {})
            licence = str((data.get("pretrained_cfg") or {}).get("license", "") or "")
            config = timm_config.fields(data, str(path))
            return Beside(config, prepared, timm_config.classes(data), licence, path.name)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, WeightsError):
            raise
        raise WeightsError(f"{path}: {error!r} is missing or odd", next_step="mend it, or move it away") from None
    return Beside(
        data, where=path.name
    )  # our own fields; an unknown one is refused, with a suggestion, when it is used


# --- transformers


def _transformers(data: dict[str, Any], path: Path) -> Beside:
    kinds = {
        "vit": _vit,
        "deit": _vit,
        "dinov2": _dinov2,
        "dinov2_with_registers": _dinov2,
        "vit_mae": _mae,
        "bit": _bit,
    }
    if data["model_type"] not in kinds:
        raise WeightsError(f"{path} is of the model type {data['model_type']!r}", allowed=", ".join(kinds))
    config = kinds[data["model_type"]](data)
    names = _names(data.get("id2label") or {})
    preprocessor = path.parent / PREPROCESSOR
    preprocess = _processor(read_object(preprocessor)) if preprocessor.is_file() else {}
    where = path.name + (f" and {PREPROCESSOR}" if preprocess else "")
    return Beside(config, preprocess, names, where=where)


def _vit(data: dict[str, Any]) -> dict[str, Any]:
    _only(data, pooler_act="tanh")
    return {
        "width": data.get("hidden_size", 768),
        "depth": data.get("num_hidden_layers", 12),
        "heads": data.get("num_attention_heads", 12),
        "mlp_width": data.get("intermediate_size", 3072),
        "patch": _two(data.get("patch_size", 16)),
        "image": _two(data.get("image_size", 224)),
        "channels": data.get("num_channels", 3),
        "activation": _activation(data),
        "norm_eps": data.get("layer_norm_eps", 1e-12),
        "qkv_bias": data.get("qkv_bias", True),
    }


def _dinov2(data: dict[str, Any]) -> dict[str, Any]:
    width = data.get("hidden_size", 768)
    gated = data.get("use_swiglu_ffn", False)
    return {
        **_vit(data),
        "norm_eps": data.get("layer_norm_eps", 1e-6),
        "mlp_width": hidden_of_dinov2(width, data.get("mlp_ratio", 4), gated),
        "activation": "swiglu" if gated else _activation(data),
        "layer_scale": data.get("layerscale_value", 1.0),
    }


def _mae(data: dict[str, Any]) -> dict[str, Any]:
    _only(data, hidden_act="gelu")  # of the decoder, too
    return {
        "encoder": _vit(data),
        "decoder_width": data.get("decoder_hidden_size", 512),
        "decoder_depth": data.get("decoder_num_hidden_layers", 8),
        "decoder_heads": data.get("decoder_num_attention_heads", 16),
        "decoder_mlp_width": data.get("decoder_intermediate_size", 2048),
        "target": "normalised" if data.get("norm_pix_loss", False) else "pixels",
    }


def _bit(data: dict[str, Any]) -> dict[str, Any]:
    """Nothing: of the one kind that is read the tensors say all."""
    _only(data, layer_type="preactivation", hidden_act="relu", num_groups=32, output_stride=32, width_factor=1)
    _only(data, global_padding=None, embedding_dynamic_padding=False)
    return {}


def _only(data: dict[str, Any], **allowed: Any) -> None:
    """WeightsError where a field, which leaves no trace in the tensors, has another value than the one known here."""
    for name, value in allowed.items():
        if data.get(name, value) != value:
            raise WeightsError(f"{name} {data[name]!r} in a {data['model_type']}", allowed=repr(value))


def _activation(data: dict[str, Any]) -> str:
    named = data.get("hidden_act", "gelu")
    if named not in ACTIVATIONS:
        raise WeightsError(f"hidden_act {named!r}", allowed=", ".join(ACTIVATIONS))
    return ACTIVATIONS[named]


def _names(names: dict[str, str]) -> tuple[str, ...]:
    """id2label in order; none where they are the numbered placeholders."""
    if not names or all(str(name).startswith("LABEL_") for name in names.values()):
        return ()
    return tuple(str(names[key]) for key in sorted(names, key=int))


def _processor(data: dict[str, Any]) -> dict[str, Any]:
    """An image processor of transformers as fields of Preprocess."""
    size, crop = _size(data.get("size", 224)), data.get("crop_size")
    found: dict[str, Any] = {}
    if data.get("do_normalize", True) and "image_mean" in data:
        found |= {"mean": tuple(data["image_mean"]), "std": tuple(data["image_std"])}
    if data.get("resample") in INTERPOLATIONS:
        found["interpolation"] = INTERPOLATIONS[data["resample"]]
    if data.get("do_center_crop") and crop is not None:
        inner = _size(crop)
        fraction = min(1.0, max(inner) / min(size))
        return {**found, "size": inner, "resize": "crop", "crop_fraction": fraction}
    if data.get("crop_pct"):
        return {**found, "size": size, "resize": "crop", "crop_fraction": data["crop_pct"]}
    shortest = isinstance(data.get("size"), dict) and "shortest_edge" in data["size"]
    return {**found, "size": size, "resize": "crop" if shortest else "squash", "crop_fraction": 1.0}


def _size(value: Any) -> tuple[int, int]:
    if isinstance(value, dict):
        side = value.get("shortest_edge")
        return (side, side) if side else (value["height"], value["width"])
    return _two(value)


def _two(value: Any) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
