"""facebookresearch/dinov3's backbones (`dinov3_*_pretrain_*.pth`), and EUPE's, which are the same model.

The periods of the rotary positions lie in the files, rounded to bfloat16; timm and transformers compute them without
rounding, and get other features. Of q, k and v the bias is multiplied by a mask that is 0 for k. A mask token and a norm
for small crops act in training alone.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.positions import Rotation
from vitrail.weights.name_tables import pair, tensors
from vitrail.weights.origin import CROP, ORIGINS, Checkpoint, Facts, Fields, Origin, Style
from vitrail.weights.origins import dinov2
from vitrail.weights.shapes.vit import USE_TIMM

LICENCE = "DINOv3 License"
HABITS = {"activation": "gelu", "norm_eps": 1e-5, "pool": "cls", "positions": "rotary"}
PREPROCESS = replace(CROP, resize="squash", crop_fraction=1.0, interpolation="bilinear")
KINDS = ("dinov3-rounded", "dinov3")
_BLOCK, _PERIODS, _MASK = "blocks.{i}.", "rope_embed.periods", "attn.qkv.bias_mask"
TABLE = (
    *dinov2.BODY,
    *tensors("", "", {"registers": "storage_tokens"}),
    *pair(f"{_BLOCK}mlp.fc1", f"{_BLOCK}mlp.w1", f"{_BLOCK}mlp.w2", when=dinov2.GATED),
    *pair(f"{_BLOCK}mlp.fc2", f"{_BLOCK}mlp.w3", when=dinov2.GATED),
)


def _open(tensors: dict[str, Tensor], where: str) -> tuple[dict[str, Tensor], Fields]:
    """Biases times their masks, and what the periods say: heads and the kind of rotary positions."""
    if "cls_norm.weight" in tensors:
        raise WeightsError(f"{where} has a second final norm, for its class token", next_step=USE_TIMM)
    kept = {name: tensor for name, tensor in tensors.items() if name != _PERIODS and not name.endswith(_MASK)}
    for name in tensors.keys() - kept.keys() - {_PERIODS}:
        bias = name.removesuffix("_mask")
        kept[bias] = torch.where(tensors[name] == 0, 0.0, kept[bias]).to(kept[bias].dtype)
    periods = tensors[_PERIODS].float()
    width = 4 * len(periods)
    for kind in KINDS:
        if torch.allclose(periods, Rotation(kind, width, prefix=0).periods(), rtol=1e-6, atol=0):
            return kept, {"rotary": kind, "heads": tensors["cls_token"].shape[-1] // width}
    raise WeightsError(
        f"{where} has periods of rotary positions that are not 100^(k/{len(periods)})", next_step="nothing was loaded"
    )


def _close(tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """With the periods and the masks."""
    rounded = config.extras.rotary == "dinov3-rounded"
    periods = Rotation(config.extras.rotary, config.width // config.heads, prefix=0).periods()
    found = {**tensors, _PERIODS: periods.bfloat16() if rounded else periods}
    for i in range(config.depth) if config.extras.qkv_bias else ():
        bias = tensors[f"blocks.{i}.attn.qkv.bias"]
        found[f"blocks.{i}.{_MASK}"] = torch.cat(
            [torch.full_like(part, j != 1) for j, part in enumerate(bias.chunk(3))]
        )
    return found


def read_name(name: str) -> Facts:
    """Pictures of satellites have another mean and deviation, which the file does not say."""
    satellite = {"mean": (0.430, 0.411, 0.296), "std": (0.213, 0.156, 0.143)}
    return Facts(preprocess=satellite if "sat493m" in name else {})


def _published(name: str, model: str, data: str = "LVD-1689M") -> Checkpoint:
    return Checkpoint(f"dinov3_{name}.pth", model, data, LICENCE)


ORIGIN = Origin(
    "dinov3",
    {
        "registers": Style(
            TABLE,
            {"storage_tokens", _PERIODS, "patch_embed.proj.weight", "blocks.0.ls1.gamma"},
            HABITS,
            PREPROCESS,
            LICENCE,
            biases_free=True,
            leaves=("local_cls_norm.", "projectors."),
            opens=_open,
            closes=_close,
            writes=lambda config: config.positions == "rotary" and config.extras.rotary in ("", *KINDS),
        )
    },
    suffixes=(".safetensors",),
    read_name=read_name,
    published=(
        _published("vits16_pretrain_lvd1689m-08c60483", "vit-s/16"),
        _published("vitb16_pretrain_lvd1689m-73cec8be", "vit-b/16"),
        _published("vitl16_pretrain_lvd1689m-8aa4cbdd", "vit-l/16"),
        _published("vitl16_pretrain_sat493m-eadcf0ff", "vit-l/16", "SAT-493M"),
    ),
)
ORIGINS.register(ORIGIN.name, ORIGIN)
