"""Under timm's names: its ViTs, hybrids, BiT and ports of Google's MaxViT; and facebookresearch's DeiT, DeiT III and MAE
(its fine-tuned models, and its encoders without decoder), which lie under "model" in their files.

A file tells neither heads, nor GELU's kind, nor epsilon, nor how positions are resized: DeiT and MAE differ from timm.
Two architectures can have the same names and shapes and compute something else. Neither their files nor config.json
say which they are, but for the name, which is therefore read.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrail.errors import WeightsError
from vitrail.images.preprocess import INCEPTION, Preprocess
from vitrail.models.vit import ViTConfig
from vitrail.weights.imagenet import imagenet_classes
from vitrail.weights.name_tables import Row, pair, pairs, prefixed
from vitrail.weights.origin import CROP, ORIGINS, Checkpoint, Facts, Origin, Style

_VIT, _STUDENT = ("family", "vit"), ("family", "deit")
_BLOCK = "blocks.{i}."
_PARTS = ("norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_POOL = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")

TABLE = (
    *pair("patch_embed", "patch_embed.proj"),
    Row("cls_token", ("cls_token",)),
    Row("registers", ("reg_token",), when=_VIT),
    Row("registers", ("dist_token",), when=_STUDENT),
    Row("positions.table", ("pos_embed",)),
    *pair("norm", "norm", when=("final_norm", "tokens")),
    *pair("norm", "fc_norm", when=("final_norm", "pooled")),
    *pairs(_BLOCK, _BLOCK, {part: part for part in _PARTS}),
    Row("blocks.{i}.ls1.gamma", ("blocks.{i}.ls1.gamma",)),
    Row("blocks.{i}.ls2.gamma", ("blocks.{i}.ls2.gamma",)),
    Row("attention_pool.probe", ("attn_pool.latent",)),
    *pairs("attention_pool.", "attn_pool.", {part: part for part in _POOL}),
    *pair("pre_logits", "pre_logits.fc"),
    *pair("head", "head", when=_VIT),
    *pair("head.label", "head", when=_STUDENT),
    *pair("head.teacher", "head_dist", when=_STUDENT),
)
DEIT_3 = tuple(
    dataclasses.replace(row, theirs=tuple(re.sub(r"ls(\d).gamma", r"gamma_\1", name) for name in row.theirs))
    for row in TABLE
)
_UNIT, _THEIRS = "blocks.{b}.{u}.", "stages.{b}.blocks.{u}."
BIT = (
    Row("root.weight", ("stem.conv.weight",)),
    *pair("root_norm", "stem.norm"),
    *pairs(_UNIT, _THEIRS, {"conv{n}": "conv{n}", "norm{n}": "norm{n}"}),
    *pairs(_UNIT, _THEIRS, {"shortcut": "downsample.conv", "shortcut_norm": "downsample.norm"}),
    *pair("norm", "norm"),
    Row("head.weight", ("head.fc.weight",), "pixel conv"),
    Row("head.bias", ("head.fc.bias",)),
)
_CONVS = {"pre_norm": "pre_norm", "expand": "conv1_1x1", "norm1": "norm1", "depthwise": "conv2_kxk", "norm2": "norm2"}
_CONVS |= {"shrink": "conv3_1x1", "shortcut.conv": "shortcut.expand"}
_CONVS |= {"squeeze.reduce": "se.fc1", "squeeze.expand": "se.fc2"}
_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2")


def _batch_norms(ours: str, theirs: str, parts: Mapping[str, str]) -> tuple[Row, ...]:
    rows = [
        Row(f"{ours}{our}.{name}", (f"{theirs}{their}.{name}",))
        for our, their in parts.items()
        for name in ("running_mean", "running_var")
    ]
    return (*pairs(ours, theirs, parts), *rows)


MAXVIT = (
    *pairs("", "", {"stem.conv1": "stem.conv1", "stem.conv2": "stem.conv2"}),
    *_batch_norms("", "", {"stem.norm": "stem.norm1"}),
    *_batch_norms(_UNIT + "conv.", _THEIRS + "conv.", _CONVS),
    *(
        row
        for ours, theirs in (("attn_window.", "attn_block."), ("attn_grid.", "attn_grid."))
        for row in (
            *pairs(_UNIT + ours, _THEIRS + theirs, {layer: layer for layer in _LAYERS}),
            Row(f"{_UNIT}{ours}attn.table", (f"{_THEIRS}{theirs}attn.rel_pos.relative_position_bias_table",)),
        )
    ),
    *pairs("", "head.", {"norm": "norm", "pre_logits": "pre_logits.fc", "head": "fc"}),
)

# --- config.json

TANH = re.compile(r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip|vit_large_patch16_siglip(_gap)?_512")
"""ViTs with tanh GELU: SigLIP's of the second generation."""
ODD_HEADS = {"vit_giantopt": 16, "vit_base_patch16_gap": 16, "test_vit": 2}
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


def read_architecture(architecture: str) -> dict[str, Any]:
    """Fields of our config that an architecture's name alone says; WeightsError for one that is no model here."""
    for word, what in OTHERS.items():
        if word in architecture and architecture.startswith(("vit_", "eva", "test_vit")):
            raise WeightsError(
                f"timm's {architecture} has {what}, which no model here has",
                next_step=f'vitrail.load("timm:{architecture}")',
            )
    found: dict[str, Any] = {"activation": "gelu-tanh"} if TANH.match(architecture) else {}
    heads = next((number for start, number in ODD_HEADS.items() if architecture.startswith(start)), None)
    return found | ({"heads": heads} if heads else {})


def _read_config(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our config. Of other families than plain ViTs the tensors and the name say all."""
    architecture = str(data.get("architecture", ""))
    named = read_architecture(architecture)
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
    return Facts(config=read_architecture(name) if name.startswith("vit_") else {})


# --- the origin


def _published(name: str, model: str, top1: float | None = None) -> Checkpoint:
    licence = "CC-BY-NC-4.0" if name.startswith("mae") else "Apache-2.0"
    return Checkpoint(f"{name}.pth", model, "ImageNet-1k", licence, top1)


PUBLISHED = (
    # MAE's FINETUNE.md
    _published("mae_finetuned_vit_base", "vit-b/16", 83.66),
    _published("mae_finetuned_vit_large", "vit-l/16", 85.95),
    _published("mae_finetuned_vit_huge", "vit-h/14", 86.93),
    _published("mae_pretrain_vit_base", "vit-b/16"),
    _published("mae_pretrain_vit_large", "vit-l/16"),
    _published("mae_pretrain_vit_huge", "vit-h/14"),
    # DeiT III, README_revenge.md, trained on ImageNet-1k only
    _published("deit_3_small_224_1k", "vit-s/16", 81.4),
    _published("deit_3_base_224_1k", "vit-b/16", 83.8),
    _published("deit_3_large_224_1k", "vit-l/16", 84.9),
    _published("deit_3_huge_224_1k", "vit-h/14", 85.2),
)
_SIGNATURE = {"patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight"}
_SCALES = {"blocks.0.gamma_1", "blocks.0.gamma_2"}
_STEM = "patch_embed.backbone."
_NEVER = {"mask_token", "register_tokens", "decoder_embed.weight", f"{_STEM}stem.conv.weight", f"{_STEM}conv.weight"}
_HABITS = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls"}
_TIMM = {**_HABITS, "position_resize": "bicubic-antialias"}
_AUGREG = dataclasses.replace(CROP, crop_fraction=0.9, mean=INCEPTION[0], std=INCEPTION[1])


def _facebook(table: tuple[Row, ...], fraction: float, *, scales: bool, licence: str = "") -> Style:
    return Style(
        table,
        _SIGNATURE | _SCALES if scales else _SIGNATURE,
        {**_HABITS, "position_resize": "bicubic"},
        dataclasses.replace(CROP, crop_fraction=fraction),
        licence,
        never=_NEVER if scales else _NEVER | _SCALES,
        biases_free=True,
        wrapped=True,
    )


ORIGIN = ORIGINS.register(
    "timm",
    Origin(
        "timm",
        {
            "timm": Style(TABLE, _SIGNATURE, _TIMM, _AUGREG, never=_NEVER | _SCALES, biases_free=True, wrapped=False),
            "DeiT and MAE": _facebook(TABLE, 0.875, scales=False),
            "DeiT III": _facebook(DEIT_3, 1.0, scales=True, licence="Apache-2.0"),
            "hybrid": Style(
                prefixed(BIT[:-4], "resnet.", _STEM) + prefixed(TABLE, "vit."),
                {f"{_STEM}stem.conv.weight", f"{_STEM}stem.norm.weight", "pos_embed"},
                {**_TIMM, "standardise": "variance", "standardise_eps": 1e-8, "group_norm_eps": 1e-5},
                licence="Apache-2.0",
                shapes="hybrid",
                # a ResNet that is its root alone (R+ViT-Ti) is no part of anything called a stem
                plain=lambda name: re.sub(r"^patch_embed\.backbone\.(conv|norm)\.", rf"{_STEM}stem.\1.", name),
            ),
            "BiT": Style(
                BIT,
                {"stem.conv.weight", "stages.0.blocks.0.conv1.weight", "stages.0.blocks.0.conv3.weight"},
                {"standardise_eps": 1e-8},
                licence="Apache-2.0",
                shapes="resnet",
            ),
            "MaxViT": Style(
                MAXVIT,
                {"stem.conv1.weight", "stem.norm1.running_mean", "stem.conv2.weight", "head.fc.weight"},
                preprocess=dataclasses.replace(_AUGREG, crop_fraction=0.95),
                licence="Apache-2.0",
                shapes="maxvit",
            ),
        },
        suffixes=("", ".safetensors"),
        published=PUBLISHED,
        read_name=read_name,
        read_json=read_json,
        describe=describe,
        tellable=("heads", "activation", "norm_eps", "pool", "positions"),
        untold={"norm_eps": 1e-6},
        drops=("mask_token",),
    ),
)
