"""timm's config.json: what the model was made with, how its images were prepared; and what only a model's name says.

Two architectures can have the same names and shapes and compute something else. Their files do not say which they are,
nor does config.json but for the name, which is therefore read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.vit import ViTConfig
from vitrail.weights.published import imagenet_classes

TANH = re.compile(r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip|vit_large_patch16_siglip(_gap)?_512")
"""ViTs with tanh GELU: SigLIP's of the second generation."""
HEADS = {"vit_giantopt": 16, "vit_base_patch16_gap": 16, "test_vit": 2}
"""By the beginning of a name: the heads that are not those of the width."""
OTHERS = {
    "_rpn_": "norms behind its branches",
    "_rope_": "rotary positions",
    "_dinov3": "rotary positions",
    "eva02_": "rotary positions",
    "test_vit3": "a pooling of all tokens",
}
"""Words in the names of ViTs that are no models here though tensors may fit, and what those have."""
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu-tanh", "silu": "swiglu", "swish": "swiglu"}
"""The last two stand in gated MLPs alone, which the shapes of a file must then show."""


def by_name(architecture: str) -> dict[str, Any]:
    """Fields of our config that an architecture's name alone says; WeightsError for one that is no model here."""
    for word, what in OTHERS.items():
        if word in architecture and architecture.startswith(("vit_", "eva", "test_vit")):
            raise WeightsError(
                f"timm's {architecture} has {what}, which no model here has",
                next_step=f'vitrail.load("timm:{architecture}")',
            )
    found: dict[str, Any] = {"activation": "gelu-tanh"} if TANH.match(architecture) else {}
    heads = next((number for start, number in HEADS.items() if architecture.startswith(start)), None)
    return found | ({"heads": heads} if heads else {})


def fields(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our config. Of other families than plain ViTs the tensors and the name say all."""
    architecture = str(data.get("architecture", ""))
    named = by_name(architecture)
    if not architecture.startswith(("vit_", "deit", "flexivit", "eva_", "test_vit")):
        return named
    about, made = data.get("pretrained_cfg") or {}, data.get("model_args") or {}
    found = {"heads": "num_heads", "depth": "depth", "width": "embed_dim"}
    config = named | {ours: made[theirs] for ours, theirs in found.items() if theirs in made}
    size = about.get("input_size")
    if "img_size" in made:
        side = made["img_size"]
        config["image"] = (side, side) if isinstance(side, int) else (side[0], side[1])
    elif size and about.get("fixed_input_size", False):
        config["image"] = (size[1], size[2])
    config |= _made(made, where)
    pool = {"avg": "mean", "token": "cls", "map": "map"}.get(data.get("global_pool", ""))
    return config | ({"pool": pool} if pool else {})


def _made(made: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings from arguments of timm's constructor. WeightsError for a part that no model here has."""
    odd = [f"{name} {made[name]!r}" for name in ("block_fn", "attn_layer", "pool_include_prefix") if made.get(name)]
    if (act := made.get("act_layer")) and act not in ACTIVATIONS:
        odd.append(f"act_layer {act!r}")
    if odd:
        raise WeightsError(
            f"{where}: made with {', '.join(odd)}, which no model here has", next_step='vitrail.load("timm:NAME")'
        )
    config = {"activation": ACTIVATIONS[act]} if act else {}
    return config | ({"positions": "none"} if made.get("pos_embed", "learn") in ("none", "") else {})


def preprocess(about: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our Preprocess from their `pretrained_cfg`."""
    found: dict[str, Any] = {}
    if "mean" in about:
        found |= {"mean": tuple(about["mean"]), "std": tuple(about["std"])}
    if about.get("interpolation") in ("nearest", "bilinear", "bicubic"):
        found["interpolation"] = about["interpolation"]
    if "input_size" in about:
        found["size"] = tuple(about["input_size"][1:])
    if "crop_pct" in about and math.isfinite(about["crop_pct"]):
        squash = about.get("crop_mode") == "squash"
        found |= {"crop_fraction": min(1.0, about["crop_pct"]), "resize": "squash" if squash else "crop"}
    return found


def classes(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the outputs, described where they are; ImageNet's where the tag says that it was fine-tuned on that."""
    about = data.get("pretrained_cfg") or {}
    names = data.get("label_names") or about.get("label_names") or ()
    listed: Sequence[Any] = [names[key] for key in sorted(names, key=int)] if isinstance(names, Mapping) else names
    if listed:
        described = data.get("label_descriptions") or about.get("label_descriptions") or {}
        return tuple(str(described.get(name, name)) for name in listed)
    outputs = data.get("num_classes", about.get("num_classes"))
    tuned = re.search(r"(^|_)in1k$", str(about.get("tag", "")))
    return imagenet_classes() if tuned and outputs == 1000 else ()


def describe(config: Any, preprocess: Preprocess, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """config.json of a plain ViT or a distilled DeiT, from which timm builds it: `timm.create_model("local-dir:FOLDER")`.

    Nothing for a model whose parts no argument of timm's constructor chooses.
    """
    if not isinstance(config, ViTConfig) or config.pool not in _POOLS:
        return {}
    extras, distilled = config.extras, config.family == "deit"
    if extras.gated or extras.pre_logits or config.positioned_prefix not in (0, config.prefix):
        return {}
    found: dict[str, Any] = {
        "architecture": "deit_base_distilled_patch16_224" if distilled else "vit_base_patch16_224",
        "num_classes": config.classes,
        "num_features": config.width,
        "global_pool": _POOLS[config.pool],
        "pretrained_cfg": _describe_images(config, preprocess),
        "model_args": {name: value for name, value in _model_args(config).items() if value is not None},
    }
    return {"config.json": found | ({"label_names": list(names)} if names else {})}


def _model_args(config: ViTConfig) -> dict[str, Any]:
    extras, distilled = config.extras, config.family == "deit"
    return {
        "img_size": list(config.image),
        "patch_size": config.patch[0] if config.patch[0] == config.patch[1] else list(config.patch),
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": _ratio(config.width, config.mlp_width),
        "qkv_bias": extras.qkv_bias,
        "in_chans": config.channels,
        "global_pool": _POOLS[config.pool],
        "class_token": config.has_class_token,
        "fc_norm": extras.final_norm == "pooled",
        "pos_embed": "none" if config.positions == "none" else "learn",
        "no_embed_class": config.prefix > 0 and config.positioned_prefix == 0,
        "qk_norm": extras.qk_norm,
        "init_values": extras.layer_scale or None,
        "act_layer": "gelu_tanh" if extras.activation == "gelu-tanh" else "gelu",
        "reg_tokens": None if distilled else extras.registers,
    }


def _describe_images(config: ViTConfig, preprocess: Preprocess) -> dict[str, Any]:
    squashed = preprocess.resize == "squash"
    return {
        "input_size": [config.channels, *preprocess.size],
        "fixed_input_size": True,
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0 if squashed else preprocess.crop_fraction,
        "crop_mode": "squash" if squashed else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": config.classes,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if config.family == "deit" else "head",
    }


_POOLS = {"cls": "token", "mean": "avg", "map": "map"}


def _ratio(width: int, hidden: int) -> float:
    """The ratio from which timm computes this width: `int(width * ratio)`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
