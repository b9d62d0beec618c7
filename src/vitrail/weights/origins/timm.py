"""Under timm's names: its ViTs, hybrids, BiT and ports of Google's MaxViT; and facebookresearch's DeiT, DeiT III and MAE
(its fine-tuned models, and its encoders without decoder), which lie under "model" in their files.

Its towers of CLIP and PE, EVA-02, RoPE-ViT and DINOv3 too, also inside a file of open_clip (`visual.trunk.`).

A file tells neither heads, nor GELU's kind, nor epsilon, nor how positions are resized: DeiT and MAE differ from timm.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import INCEPTION
from vitrail.weights.name_tables import Row, pair, pairs, prefixed, tensors
from vitrail.weights.origin import CROP, LATER, ORIGINS, Checkpoint, Fields, Origin, Style
from vitrail.weights.origins.timm_config import describe, read_json, read_name
from vitrail.weights.shapes.vit import USE_TIMM

_VIT, _STUDENT = ("family", "vit"), ("family", "deit")
_BLOCK = "blocks.{i}."
_PARTS = (
    "norm{n}",
    "attn.qkv",
    "attn.q_norm",
    "attn.k_norm",
    "attn.norm",
    "attn.proj",
    "mlp.fc1",
    "mlp.fc2",
    "mlp.norm",
)
_SINGLE = {"cls_token": "cls_token", "positions.table": "pos_embed", "attention_pool.probe": "attn_pool.latent"}

TABLE = (
    *pairs("", "", {"patch_embed": "patch_embed.proj", "pre_norm": "norm_pre", "pre_logits": "pre_logits.fc"}),
    *tensors("", "", {**_SINGLE, "projection.weight": "projection.weight"}),  # the last: see _open
    *tensors("", "", {"registers": "reg_token"}, when=_VIT),
    *tensors("", "", {"registers": "dist_token"}, when=_STUDENT),
    *pair("norm", "norm", when=("final_norm", "tokens")),
    *pair("norm", "fc_norm", when=("final_norm", "pooled")),
    *pairs(_BLOCK, _BLOCK, _PARTS),
    *tensors(_BLOCK, _BLOCK, ["ls{n}.gamma"]),
    *pairs("attention_pool.", "attn_pool.", ["q", "kv", "proj", "norm", "mlp.fc{n}"]),
    *pair("head", "head", when=_VIT),
    *pair("head.label", "head", when=_STUDENT),
    *pair("head.teacher", "head_dist", when=_STUDENT),
)
DEIT_3 = tuple(
    dataclasses.replace(row, theirs=tuple(name.replace("ls{n}.gamma", "gamma_{n}") for name in row.theirs))
    for row in TABLE
)
_FC1 = f"{_BLOCK}mlp.fc1"
_SPLIT_MLP = pair(_FC1, f"{_FC1}_g", f"{_FC1}_x", when=("gated", True))


def _without(table: tuple[Row, ...], *ours: str) -> tuple[Row, ...]:
    return tuple(row for row in table if not row.ours.startswith(tuple(_BLOCK + name for name in ours)))


def _biases(*theirs: str) -> Row:
    return Row(f"{_BLOCK}attn.qkv.bias", tuple(f"{_BLOCK}attn.{name}" for name in theirs), "q v")


# biases of q and v alone
EVA = (*_without(DEIT_3, "attn.qkv.bias"), _biases("q_bias", "v_bias"))
# the same, with three matrices for q, k and v, and two for the gated MLP
_QKV = Row(f"{_BLOCK}attn.qkv.weight", tuple(f"{_BLOCK}attn.{part}_proj.weight" for part in "qkv"))
EVA_02 = (*_without(DEIT_3, "attn.qkv", "mlp.fc1"), _QKV, _biases("q_proj.bias", "v_proj.bias"), *_SPLIT_MLP)
# one matrix for q, k and v, without biases or with those of q and v
DINOV3 = (*_without(EVA, "mlp.fc1"), *pair(_FC1, _FC1, when=("gated", False)), *_SPLIT_MLP)
_UNIT, _THEIRS = "blocks.{b}.{u}.", "stages.{b}.blocks.{u}."
BIT = (
    Row("root.weight", ("stem.conv.weight",)),
    *pair("root_norm", "stem.norm"),
    *pairs(_UNIT, _THEIRS, ["conv{n}", "norm{n}"]),
    *pairs(_UNIT, _THEIRS, {"shortcut": "downsample.conv", "shortcut_norm": "downsample.norm"}),
    *pair("norm", "norm"),
    Row("head.weight", ("head.fc.weight",), "pixel conv"),
    Row("head.bias", ("head.fc.bias",)),
)
_CONVS = {"pre_norm": "pre_norm", "expand": "conv1_1x1", "norm1": "norm1", "depthwise": "conv2_kxk", "norm2": "norm2"}
_CONVS |= {"shrink": "conv3_1x1", "shortcut.conv": "shortcut.expand"}
_CONVS |= {"squeeze.reduce": "se.fc1", "squeeze.expand": "se.fc2"}
_LAYERS = ("attn.qkv", "attn.proj", "mlp.fc{n}", "norm{n}")


def _batch_norms(ours: str, theirs: str, parts: Mapping[str, str]) -> tuple[Row, ...]:
    moments = {f"{our}.{of}": f"{their}.{of}" for our, their in parts.items() for of in ("running_mean", "running_var")}
    return (*pairs(ours, theirs, parts), *tensors(ours, theirs, moments))


MAXVIT = (
    *pairs("", "", ["stem.conv{n}"]),
    *_batch_norms("", "", {"stem.norm": "stem.norm1"}),
    *_batch_norms(_UNIT + "conv.", _THEIRS + "conv.", _CONVS),
    *(
        row
        for ours, theirs in (("attn_window.", "attn_block."), ("attn_grid.", "attn_grid."))
        for row in (
            *pairs(_UNIT + ours, _THEIRS + theirs, _LAYERS),
            Row(f"{_UNIT}{ours}attn.table", (f"{_THEIRS}{theirs}attn.rel_pos.relative_position_bias_table",)),
        )
    ),
    *pairs("", "head.", {"norm": "norm", "pre_logits": "pre_logits.fc", "head": "fc"}),
)

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
_QKV_WEIGHT = "blocks.0.attn.qkv.weight"
_SCALES = {"blocks.0.gamma_1", "blocks.0.gamma_2"}
_STEM = "patch_embed.backbone."
_NEVER = {"mask_token", "register_tokens", "storage_tokens", "decoder_embed.weight"}
_NEVER |= {f"{_STEM}stem.conv.weight", f"{_STEM}conv.weight"}
_Q_BIAS = "blocks.0.attn.q_bias"
_TEXT = ("text.", "logit_scale", "logit_bias")
_HABITS = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls"}
_TIMM = {**_HABITS, "position_resize": "bicubic-antialias"}
_AUGREG = dataclasses.replace(CROP, crop_fraction=0.9, mean=INCEPTION[0], std=INCEPTION[1])


def _open(tensors: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], Fields]:
    """A head of a CLIP tower whose bias is zero is the projection into the space of texts."""
    if "rope.freqs" in tensors:
        what = "rotary positions with frequencies of each block, which no model here has"
        raise WeightsError(f"{where} has {what}", next_step=USE_TIMM)
    if "norm_pre.weight" not in tensors or "head.bias" not in tensors or tensors["head.bias"].any():
        return tensors, {}
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    weight = tensors["head.weight"]
    return {**kept, "projection.weight": weight}, {"projection": len(weight), "classes": 0}


def _close(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    if "projection.weight" not in tensors:
        return tensors
    if config.classes:
        raise WeightsError("timm has no model with a projection and a head", next_step="nothing was written")
    weight = tensors.pop("projection.weight")
    return {**tensors, "head.weight": weight, "head.bias": weight.new_zeros(len(weight))}


def _timm(name: str, table: tuple[Row, ...], signature: set[str], never: set[str]) -> Style:
    return Style(
        table,
        {"patch_embed.proj.weight", "blocks.0.norm1.weight", *signature},
        _TIMM,
        _AUGREG,
        never=_NEVER | never,
        biases_free=True,
        wrapped=False,
        leaves=_TEXT,
        plain=lambda name: name.removeprefix("visual.trunk."),
        opens=_open,
        closes=_close,
        writes=lambda config: _style_for(config) == name,
    )


def _style_for(config: Any) -> str:
    """The style in which timm has such a ViT; "" for none."""
    extras = config.extras
    rotary = extras.rotary or ("dinov3" if config.positions == "rotary" else "")
    if rotary in ("", "pe", "pe-patches", "rope-vit"):
        return "RoPE" if rotary and extras.layer_scale else "timm"
    if config.positions == "rotary":
        return "DINOv3" if rotary in ("dinov3", "eva02") else ""
    if rotary != "eva02":
        return ""
    return "EVA-02" if extras.gated and extras.inner_norm != "none" else "EVA"


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
        writes=lambda config: False,  # the first style has all that these have
    )


ORIGIN = Origin(
    "timm",
    {
        "timm": _timm("timm", TABLE, {_QKV_WEIGHT}, {*_SCALES, _Q_BIAS}),
        "EVA-02": _timm("EVA-02", EVA_02, {"blocks.0.attn.q_proj.weight"}, set()),
        "EVA": _timm("EVA", EVA, {_QKV_WEIGHT, _Q_BIAS, "pos_embed"}, set()),
        "DINOv3": _timm("DINOv3", DINOV3, {_QKV_WEIGHT, *_SCALES}, {"pos_embed", "blocks.0.attn.qkv.bias"}),
        "RoPE": _timm("RoPE", DEIT_3, {_QKV_WEIGHT, *_SCALES}, {_Q_BIAS}),
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
    tellable=("heads", "activation", "norm_eps", "pool", "positions", "final_norm", *LATER),
    untold={"norm_eps": 1e-6},
    drops=("mask_token",),
)
ORIGINS.register(ORIGIN.name, ORIGIN)
