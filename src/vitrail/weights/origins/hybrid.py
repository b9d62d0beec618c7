"""The hybrids of google-research/vision_transformer (.npz, both naming styles) and of timm: two tables in one.

The origin's code gives the settings that a file lacks: tanh GELU, σ + 1e-5 and GroupNorm 1e-6 in JAX; erf, √(var + 1e-8) and 1e-5
in timm. An oblong grid, and heads of no published width, must be told.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.extras import value_of
from vitrail.models.hybrid import HybridConfig
from vitrail.weights.origins import bit, google, timm
from vitrail.weights.origins.origin import present
from vitrail.weights.origins.table import Foreign, Row, to_ours, to_theirs

NAME = "hybrid"
LICENCE = "Apache-2.0"

SIGNATURE = {"conv_root/kernel", "gn_root/scale", *google.SIGNATURE}
TIMM_SIGNATURE = {"patch_embed.backbone.stem.conv.weight", "patch_embed.backbone.stem.norm.weight", "pos_embed"}
HABITS: dict[str, dict[str, Any]] = {
    "google": {"standardise": "deviation", "standardise_eps": 1e-5, "group_norm_eps": 1e-6},
    "timm": {"standardise": "variance", "standardise_eps": 1e-8, "group_norm_eps": 1e-5},
}
_OF_THE_VIT = (
    "width",
    "depth",
    "heads",
    "mlp_width",
    "patch",
    "classes",
    "pool",
    "pre_logits",
    "activation",
    "norm_eps",
    "position_resize",
)


def recognises(keys: Collection[str]) -> bool:
    """Whether this is a hybrid of either origin."""
    keys = {_with_stem(key) for key in keys}
    return any(keys >= signature for signature in (SIGNATURE, TIMM_SIGNATURE))


def read(
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    config: HybridConfig | None = None,
    told: Mapping[str, Any] | None = None,
) -> Foreign:
    """Config and tensors in our names. `config`, or the fields in `told`, say what the file cannot."""
    tensors = {_with_stem(name): tensor for name, tensor in tensors.items()}
    style, said = _style(tensors), ()
    if config is None:
        config, said = _config(tensors, style, where, dict(told or {}))
    ours = to_ours(rows(config, style), tensors, where=where)
    return Foreign(config, ours, Preprocess(size=config.image), LICENCE, (f"names: hybrid, {style}", *said))


def write(state: Mapping[str, Tensor], config: HybridConfig, *, style: str = "published") -> dict[str, Tensor]:
    """A state as their arrays."""
    theirs = to_theirs(rows(config, style), state, heads=config.heads)
    if config.depths:
        return theirs
    return {name.replace("backbone.stem.", "backbone."): tensor for name, tensor in theirs.items()}


def _with_stem(name: str) -> str:
    """timm's names where the ResNet is its root alone (R+ViT-Ti), which then is no part of anything called a stem."""
    return re.sub(r"^patch_embed\.backbone\.(conv|norm)\.", r"patch_embed.backbone.stem.\1.", name)


def rows(config: HybridConfig, style: str) -> list[Row]:
    """The table for one model: its two halves, each under its prefix."""
    if style == "timm":
        resnet, vit = bit.written(bit.TIMM, config.depths), present(timm.TABLE, config.vit)
        resnet = [dataclasses.replace(row, theirs=(f"patch_embed.backbone.{row.theirs[0]}",)) for row in resnet]
    else:
        resnet, vit = bit.written(bit.BIG_VISION_V1, config.depths), google.rows(config.vit, style)
        # published were the GroupNorms of an older flax, 1 1 1 C
        layout = "spread" if style == "published" else "flat"
        resnet = [dataclasses.replace(row, layout=layout) if "norm" in row.ours else row for row in resnet]
    halves = (("resnet.", resnet), ("vit.", vit))
    return bit.present([dataclasses.replace(row, ours=half + row.ours) for half, its in halves for row in its], config)


def _style(tensors: Mapping[str, Tensor]) -> str:
    if "pos_embed" in tensors:
        return "timm"
    return "linen" if "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" in tensors else "published"


def _config(
    tensors: Mapping[str, Tensor], style: str, where: str, told: dict[str, Any]
) -> tuple[HybridConfig, tuple[str, ...]]:
    """Both halves read each by its own origin, the grid from the number of positions."""
    ours, origin = (timm, "timm") if style == "timm" else (google, "google")
    table, prefix = (bit.TIMM, "patch_embed.backbone.") if style == "timm" else (bit.BIG_VISION_V1, "")
    stem = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    resnet = bit.sizes(table, {name: t for name, t in stem.items() if not name.startswith("head")}, where)
    kernel, positions = ("patch_embed.proj.weight", "pos_embed") if style == "timm" else _GOOGLE
    try:
        p, q = tensors[kernel].shape[2:] if style == "timm" else tensors[kernel].shape[:2]
        patches = tensors[positions].shape[1] - bool(tensors.keys() & {"cls", "cls_token"})
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
    # any grid of as many patches will do to read the other sizes
    for_vit = {name: value for name, value in told.items() if name in _OF_THE_VIT} | {"image": (patches * p, q)}
    vit, said = ours.ORIGIN.config(ours.ORIGIN.styles[style], tensors, for_vit, where)
    said = tuple(line for line in said if not line.startswith("from the config"))
    said += (f"from the config given: {', '.join(told)}",) if told else ()
    found = {**resnet, **{name: value_of(vit, name) for name in _OF_THE_VIT}, **HABITS[origin], **told}
    if "image" not in told:
        side, stride = math.isqrt(patches), 4 * 2 ** max(0, len(resnet["depths"]) - 1)
        if side * side != patches:
            raise WeightsError(
                f"{where}: {patches} positions make no square grid", next_step='say its size: config={"image": [H, W]}'
            )
        found["image"] = (side * stride * p, side * stride * q)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return configs.from_dict(HybridConfig, plain, where=where), said


_GOOGLE = ("embedding/kernel", "Transformer/posembed_input/pos_embedding")


google.LIBRARY.writers["hybrid"] = partial(write, style="published")
timm.LIBRARY.writers["hybrid"] = partial(write, style="timm")
