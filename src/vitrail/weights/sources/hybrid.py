"""The hybrids of google-research/vision_transformer (.npz, both naming styles) and of timm: two tables in one.

What a file cannot say is its origin's habit: tanh GELU, σ + 1e-5 and GroupNorm 1e-6 in JAX; erf, √(var + 1e-8) and 1e-5
in timm, which also never says its heads: 64 features each, as in every published one, unless a config does.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from vitrail.images.preprocess import Preprocess
from vitrail.models.hybrid import HybridConfig
from vitrail.weights.sources import bit, google
from vitrail.weights.sources.table import Foreign, Row, rows_of, to_ours, to_theirs

NAME = "hybrid"
LICENCE = "Apache-2.0"

SIGNATURE = {"conv_root/kernel", "gn_root/scale", *google.SIGNATURE}
TIMM_SIGNATURE = {"patch_embed.backbone.stem.conv.weight", "patch_embed.backbone.stem.norm.weight", "pos_embed"}

_PLAIN = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
TIMM_VIT = (
    Row("cls_token", ("cls_token",)),
    Row("positions.table", ("pos_embed",)),
    *(Row(f"{name}.{end}", (f"{name}.{end}",)) for name in ("norm", "head") for end in ("weight", "bias")),
    *(Row(f"blocks.{{i}}.{n}.{end}", (f"blocks.{{i}}.{n}.{end}",)) for n in _PLAIN for end in ("weight", "bias")),
    *(Row(f"patch_embed.{end}", (f"patch_embed.proj.{end}",)) for end in ("weight", "bias")),
)
TIMM_HABITS: dict[str, Any] = {
    "activation": "gelu",
    "standardise": "variance",
    "standardise_eps": 1e-8,
    "group_norm_eps": 1e-5,
}


def recognises(keys: Collection[str]) -> bool:
    """Whether this is a hybrid of either origin."""
    return set(keys) >= SIGNATURE or set(keys) >= TIMM_SIGNATURE


def read(tensors: Mapping[str, Tensor], *, where: str, config: HybridConfig | None = None) -> Foreign:
    """Config and tensors in our names; `config` says what the file cannot: an oblong grid, timm's heads."""
    style = _style(tensors)
    config = config or _config(tensors, style, where)
    return Foreign(config, to_ours(rows(config, style), tensors, where=where), Preprocess(size=config.image), LICENCE)


def write(state: Mapping[str, Tensor], config: HybridConfig, *, style: str = "published") -> dict[str, Tensor]:
    """A state of ours as their arrays."""
    return to_theirs(rows(config, style), state, heads=config.heads)


def rows(config: HybridConfig, style: str) -> list[Row]:
    """The table for one model: its two halves, each under its prefix."""
    if style == "timm":
        resnet, vit = bit.written(bit.TIMM, config.depths), rows_of(TIMM_VIT, config.depth)
        resnet = [dataclasses.replace(row, theirs=(f"patch_embed.backbone.{row.theirs[0]}",)) for row in resnet]
    else:
        resnet, vit = bit.written(bit.BIG_VISION_V1, config.depths), google.rows(config.vit, style)
        # published were the GroupNorms of an older flax, 1 1 1 C
        layout = "spread" if style == "published" else "flat"
        resnet = [dataclasses.replace(row, layout=layout) if "norm" in row.ours else row for row in resnet]
    halves = (("resnet.", resnet), ("vit.", vit))
    named = [dataclasses.replace(row, ours=prefix + row.ours) for prefix, half in halves for row in half]
    return bit.present(named, config)


def _style(tensors: Mapping[str, Tensor]) -> str:
    if "pos_embed" in tensors:
        return "timm"
    return "linen" if "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" in tensors else "published"


def _config(tensors: Mapping[str, Tensor], style: str, where: str) -> HybridConfig:
    prefix, table = ("patch_embed.backbone.", bit.TIMM) if style == "timm" else ("", bit.BIG_VISION_V1)
    stem = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    resnet = bit.sizes(table, {name: tensor for name, tensor in stem.items() if not name.startswith("head")}, where)
    vit = _timm_vit(tensors) if style == "timm" else _google_vit(tensors, style, where)
    side, stride = math.isqrt(vit.pop("patches")), 4 * 2 ** max(0, len(resnet["depths"]) - 1)
    image = tuple(side * stride * p for p in vit["patch"])
    habits = TIMM_HABITS if style == "timm" else {}
    said: dict[str, Any] = {**resnet, **vit, **habits, "image": image}
    return HybridConfig(**said)


def _google_vit(tensors: Mapping[str, Tensor], style: str, where: str) -> dict[str, Any]:
    """The ViT half as google.py reads it."""
    vit = google.config_of({name: t for name, t in tensors.items() if not name.startswith("conv_root")}, style, where)
    names = ("width", "depth", "heads", "mlp_width", "patch", "classes", "pool", "pre_logits", "activation")
    return {name: getattr(vit, name) for name in names} | {"patches": vit.grid[0] * vit.grid[1]}


def _timm_vit(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    width, _, p, q = tensors["patch_embed.proj.weight"].shape
    return {
        "width": width,
        "depth": len({name.split(".")[1] for name in tensors if re.match(r"blocks\.\d", name)}),
        "heads": max(1, width // 64),
        "mlp_width": len(tensors["blocks.0.mlp.fc1.bias"]),
        "patch": (p, q),
        "classes": len(tensors.get("head.bias", ())),
        "pool": "cls" if "cls_token" in tensors else "mean",
        "patches": tensors["pos_embed"].shape[1] - ("cls_token" in tensors),
    }
