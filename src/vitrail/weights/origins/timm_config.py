"""timm's config.json and names of architectures, and our configs, both ways.

Two architectures can have the same names and shapes of tensors and compute something else. Neither their files nor
config.json say which they are, but for the name, which is therefore read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.extras import value_of
from vitrail.models.hybrid import HybridConfig
from vitrail.models.vit import ViTConfig
from vitrail.weights.imagenet import imagenet_classes
from vitrail.weights.origin import Facts

_PE: Mapping[str, Any] = {"rotary": "pe", "rotary_grid": 32, "norm_eps": 1e-5}
NAMES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    # tanh GELU: SigLIP's of the second generation
    (r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip", {"activation": "gelu-tanh"}),
    (r"vit_large_patch16_siglip(_gap)?_512", {"activation": "gelu-tanh"}),
    # heads that are not those of the width
    (r"vit_giantopt|vit_base_patch16_gap", {"heads": 16}),
    (r"test_vit", {"heads": 2}),
    (r"vit_huge_plus_patch16_dinov3", {"heads": 20}),
    (r"vit_\w+_clip_", {"norm_eps": 1e-5}),
    (r"vit_\w+_clip_quickgelu_", {"activation": "gelu-quick"}),
    (r"beit3_", {"norm_eps": 1e-5}),
    (r"vit_intern300m", {"final_norm": "none"}),
    (r"eva02_|vit_\w+_rope_reg\d_", {"rotary": "eva02", "rotary_grid": 16}),
    (r"vit_(small|base|large)_patch16_rope_(ape_)?224", {"rotary": "rope-vit"}),
    (r"vit_\w+_(dinov3|lingbot)", {"rotary": "dinov3", "norm_eps": 1e-5}),
    (r"vit_pe_", _PE),
    (r"vit_pe_core", {"pool": "map", "pool_prefix": True, "pool_heads": 8}),
    (r"vit_pe_core_(tiny|small|large)", {"rotary_grid": 24}),
    (r"vit_pe_core_base", {"rotary_grid": 14}),
    (r"vit_pe_\w+_gigantic", {"rotary": "pe-patches", "heads": 16}),
    (r"vit_pe_(lang|spatial)", {"final_norm": "none"}),
)
"""Beginnings of names of ViTs, and what these say that tensors do not; later rows go before earlier ones."""
OTHERS = (
    (r"(vit|eva|deit|test_vit)\w*_rpn_|eva02_enormous", "norms behind its branches"),
    (r"(vit|eva)\w*_rope_mixed", "rotary positions with frequencies of each block"),
    (r"vit_\w+_sapiens2", "gates and groups of heads in attention"),
    (r"test_vit3", "a pooling of all tokens"),
    (r"vit_\w+_radio_v", "positions cut from a larger table, which is in the file"),
    (r"vit_d(little|wee)_", "differential attention"),
    (r"vit_d?pwee_", "attention and MLP side by side"),
    (r"vit_s?relpos_|beit(v2)?_", "relative positions of its own in each block"),
    (r"aimv2_", "RMS norms, and no biases"),
    (r"samvit_|vit_\w+_sam_", "attention in windows"),
    (r"hiera_", "stages with fewer and fewer tokens"),
    (r"cait_", "talking heads, and a class token that comes later"),
    (r"naflexvit_", "a table that is cut for each shape of an image"),
)
"""Beginnings of names of models that are none here though tensors may fit, and what those have."""
FAMILIES = ("vit_", "deit", "flexivit", "eva", "beit3_", "test_vit")
ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_tanh": "gelu-tanh",
    "quick_gelu": "gelu-quick",
    "silu": "swiglu",
    "swish": "swiglu",
}
"""The last two stand in gated MLPs alone, which the shapes of a file must then show."""


def read_architecture(architecture: str) -> dict[str, Any]:
    """Fields of our config that an architecture's name alone says; WeightsError for one that is no model here."""
    for start, what in OTHERS:
        if re.match(start, architecture):
            raise WeightsError(
                f"timm's {architecture} has {what}, which no model here has",
                next_step=f'vitrail.load("timm:{architecture}")',
            )
    found: dict[str, Any] = {}
    for start, said in NAMES:
        found |= said if re.match(start, architecture) else {}
    return found


def _read_config(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our config. Of other families than plain ViTs the tensors and the name say all."""
    architecture = str(data.get("architecture", ""))
    named = read_architecture(architecture)
    if not architecture.startswith(FAMILIES):
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


ODD_ARGUMENTS = ("block_fn", "attn_layer", "pool_include_prefix", "rope_type", "use_post_norm", "gated_attn")


def _made(made: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Settings from arguments of timm's constructor. WeightsError for a part that no model here has."""
    odd = [f"{name} {made[name]!r}" for name in ODD_ARGUMENTS if made.get(name)]
    if (act := made.get("act_layer")) and act not in ACTIVATIONS:
        odd.append(f"act_layer {act!r}")
    if odd:
        raise WeightsError(
            f"{where}: made with {', '.join(odd)}, which no model here has", next_step='vitrail.load("timm:NAME")'
        )
    config = {"activation": ACTIVATIONS[act]} if act else {}
    return config | ({"positions": "none"} if made.get("pos_embed", "learn") in ("none", "") else {})


def read_preprocess(about: Mapping[str, Any]) -> dict[str, Any]:
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


def read_classes(data: Mapping[str, Any]) -> tuple[str, ...]:
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


def describe(style: str, config: Any, preprocess: Preprocess, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """config.json of a plain ViT, one behind a ResNet's root, or a distilled DeiT, from which timm builds it:
    `timm.create_model("local-dir:FOLDER")`.

    Nothing for a model whose parts no argument of timm's constructor chooses.
    """
    whole, rooted = config, isinstance(config, HybridConfig) and not config.depths and config.root_width == 64
    config = config.vit if rooted else config
    if not isinstance(config, ViTConfig) or config.pool not in _POOLS:
        return {}
    extras, distilled = config.extras, config.family == "deit"
    special = extras.gated, extras.pre_logits, extras.rotary, extras.normalise
    probe = extras.pool_prefix, extras.pool_heads, extras.pool_mlp_width
    if any((*special, *probe)) or extras.inner_norm != "none" or config.positioned_prefix not in (0, config.prefix):
        return {}
    plain = "vit_tiny_r_s16_p8_224" if rooted else "vit_base_patch16_224"
    pixels = {"img_size": list(whole.image), "in_chans": whole.channels}
    found: dict[str, Any] = {
        "architecture": "deit_base_distilled_patch16_224" if distilled else plain,
        "num_classes": config.classes or extras.projection,
        "num_features": config.width,
        "global_pool": _POOLS[config.pool],
        "pretrained_cfg": _describe_images(config, preprocess)
        | ({"first_conv": "patch_embed.backbone.conv"} if rooted else {}),
        "model_args": {name: value for name, value in (_model_args(config) | pixels).items() if value is not None},
    }
    return {"config.json": found | ({"label_names": list(names)} if names else {})}


def _model_args(config: ViTConfig) -> dict[str, Any]:
    extras, distilled = config.extras, config.family == "deit"
    return {theirs: value_of(config, ours) for theirs, ours in _ARGUMENTS.items()} | {
        "patch_size": config.patch[0] if config.patch[0] == config.patch[1] else list(config.patch),
        "mlp_ratio": _ratio(config.width, config.mlp_width),
        "global_pool": _POOLS[config.pool],
        "class_token": config.has_class_token,
        "fc_norm": extras.final_norm == "pooled",
        "pos_embed": "none" if config.positions == "none" else "learn",
        "no_embed_class": config.prefix > 0 and config.positioned_prefix == 0,
        "init_values": extras.layer_scale or None,
        "act_layer": {"gelu-tanh": "gelu_tanh", "gelu-quick": "quick_gelu"}.get(extras.activation, "gelu"),
        "final_norm": extras.final_norm != "none",
        "reg_tokens": None if distilled else extras.registers,
    }


def _describe_images(config: ViTConfig, preprocess: Preprocess) -> dict[str, Any]:
    squashed = preprocess.resize == "squash"
    return {
        "input_size": [preprocess.channels, *preprocess.size],
        "fixed_input_size": True,
        "interpolation": preprocess.interpolation,
        "crop_pct": 1.0 if squashed else preprocess.crop_fraction,
        "crop_mode": "squash" if squashed else "center",
        "mean": list(preprocess.mean),
        "std": list(preprocess.std),
        "num_classes": config.classes or config.extras.projection,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"] if config.family == "deit" else "head",
    }


_ARGUMENTS = {"embed_dim": "width", "depth": "depth", "num_heads": "heads"}
_ARGUMENTS |= {name: name for name in ("qkv_bias", "qk_norm", "pre_norm")}
_POOLS = {"cls": "token", "mean": "avg", "map": "map"}


def _ratio(width: int, hidden: int) -> float:
    """The ratio from which timm computes this width: `int(width * ratio)`."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width


def read_json(data: dict[str, Any], path: Path) -> Facts | None:
    if "pretrained_cfg" not in data and "architecture" not in data:
        return None
    about = data.get("pretrained_cfg") or {}
    return Facts(
        config=_read_config(data, str(path)),
        preprocess=read_preprocess(about),
        classes=read_classes(data),
        licence=str(about.get("license", "") or ""),
        where=path.name,
    )


def read_name(name: str) -> Facts:
    return Facts(config=read_architecture(name) if name.startswith(("vit_", "eva02_")) else {})
