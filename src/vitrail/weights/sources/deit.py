"""Distilled DeiT: facebookresearch/deit and timm (the same names), and transformers' DeiT with teacher.

A file does not say its heads; all published ones are 64 wide.
"""

import math
from collections.abc import Collection, Mapping

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models.deit import DeiTConfig
from vitrail.weights.sources.table import Foreign, Row, rows_of, to_ours, to_theirs

NAME = "deit"
LICENCE = "Apache-2.0"
SIGNATURE = {"cls_token", "dist_token", "pos_embed", "head_dist.weight", "blocks.0.attn.qkv.weight"}
HUGGING_FACE = {"deit.embeddings.distillation_token", "cls_classifier.weight", "distillation_classifier.weight"}
_SIDES = ("weight", "bias")
_BLOCK = {
    # ours: timm's, transformers'
    "norm1": (("norm1",), ("layernorm_before",)),
    "attn.qkv": (("attn.qkv",), tuple(f"attention.attention.{part}" for part in ("query", "key", "value"))),
    "attn.proj": (("attn.proj",), ("attention.output.dense",)),
    "norm2": (("norm2",), ("layernorm_after",)),
    "mlp.fc1": (("mlp.fc1",), ("intermediate.dense",)),
    "mlp.fc2": (("mlp.fc2",), ("output.dense",)),
}
_PLAIN = {
    "patch_embed": ("patch_embed.proj", "deit.embeddings.patch_embeddings.projection"),
    "norm": ("norm", "deit.layernorm"),
    "head.label": ("head", "cls_classifier"),
    "head.teacher": ("head_dist", "distillation_classifier"),
}
_TOKENS = {
    "cls_token": ("cls_token", "deit.embeddings.cls_token"),
    "registers": ("dist_token", "deit.embeddings.distillation_token"),
    "positions.table": ("pos_embed", "deit.embeddings.position_embeddings"),
}


def recognises(keys: Collection[str]) -> bool:
    """Whether this is one with a distillation token; DeiT without one, and DeiT III, are plain ViTs."""
    return set(keys) >= SIGNATURE or set(keys) >= HUGGING_FACE


def read(tensors: Mapping[str, Tensor], *, where: str, config: DeiTConfig | None = None) -> Foreign:
    """Config and tensors in our names; `config` says what the file cannot, heads and an oblong grid."""
    style = int("dist_token" not in tensors)
    config = config or config_of(tensors, style, where)
    preprocess = Preprocess(
        size=config.image,
        resize="crop",
        crop_fraction=0.875,
        interpolation="bicubic",
        mean=IMAGENET[0],
        std=IMAGENET[1],
    )
    return Foreign(config, to_ours(rows(config, style), tensors, where=where), preprocess, LICENCE)


def write(state: Mapping[str, Tensor], config: DeiTConfig, *, style: int = 0) -> dict[str, Tensor]:
    """A state of ours as their tensors; style 0 is timm's, 1 transformers'."""
    return to_theirs(rows(config, style), state, heads=config.heads)


def rows(config: DeiTConfig, style: int) -> list[Row]:
    stack = ("blocks", "deit.encoder.layer")[style]
    table = [Row(ours, (theirs[style],)) for ours, theirs in _TOKENS.items()]
    table += [Row(f"{ours}.{side}", (f"{names[style]}.{side}",)) for ours, names in _PLAIN.items() for side in _SIDES]
    for ours, names in _BLOCK.items():
        layout = "joined" if len(names[style]) == 3 else "same"
        for side in _SIDES:
            theirs = tuple(f"{stack}.{{i}}.{name}.{side}" for name in names[style])
            table.append(Row(f"blocks.{{i}}.{ours}.{side}", theirs, layout))
    return rows_of(table, config.depth)


def config_of(tensors: Mapping[str, Tensor], style: int, where: str) -> DeiTConfig:
    """Every size is in a shape but the heads."""
    stack = ("blocks", "deit.encoder.layer")[style]
    try:
        width, channels, p, q = tensors[_PLAIN["patch_embed"][style] + ".weight"].shape
        patches = tensors[_TOKENS["positions.table"][style]].shape[1] - 2
        mlp_width = len(tensors[f"{stack}.0.{_BLOCK['mlp.fc1'][style][0]}.bias"])
        classes = len(tensors[_PLAIN["head.label"][style] + ".bias"])
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
    side = math.isqrt(patches)
    if side * side != patches or width % 64:
        raise WeightsError(
            f"{where}: {patches} positions, width {width}: none of the published models",
            next_step="give its DeiTConfig as config=…",
        )
    blocks = {name.removeprefix(f"{stack}.").split(".")[0] for name in tensors if name.startswith(f"{stack}.")}
    return DeiTConfig(
        width=width,
        depth=len(blocks),
        heads=width // 64,
        mlp_width=mlp_width,
        patch=(p, q),
        image=(side * p, side * q),
        channels=channels,
        classes=classes,
        position_resize="bicubic",
        norm_eps=(1e-6, 1e-12)[style],
    )
