"""OpenAI's CLIP and open_clip (`visual.*`), and Meta's Perception Encoder, which kept the names: the image towers.

QuickGELU leaves no trace in the tensors. open_clip_config.json says it; OpenAI's own files are known by their
`input_resolution`; elsewhere exact GELU is assumed, and said. Towers that open_clip takes from timm are timm's.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import CLIP
from vitrail.weights.name_tables import Row, joined_pool, pair, pairs, tensors
from vitrail.weights.origin import CROP, ORIGINS, Facts, Fields, Origin, Style
from vitrail.weights.origins.timm_config import read_architecture
from vitrail.weights.shapes.vit import USE_TIMM

_POOL = "visual.attn_pool."
_MLP = {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}


def resblocks(start: str) -> tuple[Row, ...]:
    """The blocks of an image tower, or of a text tower."""
    block = f"{start}transformer.resblocks.{{i}}."
    return (
        *pairs("blocks.{i}.", block, {"norm{n}": "ln_{n}", "attn.proj": "attn.out_proj", **_MLP}),
        *pair("blocks.{i}.attn.qkv", f"{block}attn.in_proj", ends=("_weight", "_bias")),
    )


TABLE = (
    Row("patch_embed.weight", ("visual.conv1.weight",)),
    Row("cls_token", ("visual.class_embedding",), "vector"),
    Row("positions.table", ("visual.positional_embedding",), "table"),
    *pairs("", "visual.", {"pre_norm": "ln_pre", "norm": "ln_post"}),
    *resblocks("visual."),
    *tensors("blocks.{i}.", "visual.transformer.resblocks.{i}.", {"ls{n}.gamma": "ls_{n}.gamma"}),
    *tensors("attention_pool.", _POOL, ["probe"]),
    *joined_pool(f"{_POOL}attn."),
    *pairs("attention_pool.", _POOL, {"proj": "attn.out_proj", "norm": "layernorm", **_MLP}),
    Row("projection.weight", ("visual.proj",), "dense"),
)
TEXT = ("transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "text.", "logit_")
_SIZES = ("input_resolution", "context_length", "vocab_size", "attn_mask")


def _open(tensors: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], Fields]:
    """Reads from names alone: OpenAI's own files; the pooling and positions of the Perception Encoder."""
    shown: dict[str, Any] = {"activation": "gelu-quick"} if "input_resolution" in tensors else {}
    if f"{_POOL}probe" in tensors:
        has_class = "visual.class_embedding" in tensors
        side = math.isqrt(len(tensors["visual.positional_embedding"]) - has_class)
        shown |= {"rotary": "pe" if has_class else "pe-patches", "rotary_grid": side, "activation": "gelu"}
        shown |= {"pool": "map", "pool_prefix": True, "pool_heads": 8}
    return tensors, shown


def read_json(data: dict[str, Any], path: Path) -> Facts | None:
    """open_clip_config.json: sizes, QuickGELU, and how images are prepared."""
    if "model_cfg" not in data:
        return None
    about, images = data["model_cfg"], data.get("preprocess_cfg") or {}
    tower = about["vision_cfg"]
    odd = [name for name in ("attentional_pool", "no_ln_pre", "final_ln_after_pool") if tower.get(name)]
    odd += [f"pool_type {tower['pool_type']}"] if tower.get("pool_type", "tok") != "tok" else []
    if odd or tower.get("pos_embed_type", "learnable") != "learnable":
        raise WeightsError(
            f"{path}: {', '.join(odd) or 'fixed positions'}, which no model here has", next_step=USE_TIMM
        )
    if "timm_model_name" in tower:
        config = read_architecture(tower["timm_model_name"])
    else:
        patch, width = tower.get("patch_size", 16), tower.get("width", 768)
        config = {"patch": (patch, patch), "heads": width // tower.get("head_width", 64)}
        config["activation"] = "gelu-quick" if about.get("quick_gelu") else "gelu"
    side = tower.get("image_size", 224)
    config["image"] = (side, side) if isinstance(side, int) else tuple(side)
    return Facts(config=config, preprocess=_read_images(images, config["image"]), where=path.name)


def _read_images(about: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"size": size, "crop_fraction": 1.0}
    found["resize"] = {"squash": "squash", "longest": "pad"}.get(about.get("resize_mode", "shortest"), "crop")
    found["interpolation"] = about.get("interpolation", "bicubic")
    return found | {name: tuple(about[name]) for name in ("mean", "std") if name in about}


def _style(more: set[str], never: set[str], **rest: Any) -> Style:
    return Style(
        TABLE,
        {"visual.conv1.weight", "visual.ln_pre.weight", "visual.transformer.resblocks.0.ln_1.weight", *more},
        {"norm_eps": 1e-5, "position_resize": "bicubic-antialias", "positions_on": "all", **rest},
        replace(CROP, crop_fraction=1.0, mean=CLIP[0], std=CLIP[1]),
        "MIT (as OpenAI's; other CLIPs have other licences)",
        never=never,
        leaves=(*TEXT, *_SIZES),
        opens=_open,
        writes=lambda config: config.extras.pre_norm and not config.classes,
    )


ORIGIN = Origin(
    "open_clip",
    {
        "CLIP": _style({"visual.proj"}, {f"{_POOL}probe"}, activation="gelu", pool="cls"),
        "Perception Encoder": _style({f"{_POOL}probe"}, set(), pool="map"),
    },
    suffixes=(".safetensors",),
    read_json=read_json,
    tellable=("heads", "activation"),
)
ORIGINS.register(ORIGIN.name, ORIGIN)
