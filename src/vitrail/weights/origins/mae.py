"""Masked autoencoders with decoders: facebookresearch/mae's "full" and "visualize" files, and transformers' ViTMAE.

A file says neither its heads (published widths are known here, others need a config) nor what the decoder predicts.
"""

import dataclasses
import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models.mae import MAEConfig
from vitrail.models.positions import sincos
from vitrail.weights.origins import transformers
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.table import Foreign, Row, rows_of, to_ours, to_theirs

NAME = "mae"
LICENCE = "CC-BY-NC-4.0 (facebookresearch/mae)"
SIGNATURE = {"mask_token", "decoder_embed.weight", "decoder_pred.weight", "blocks.0.attn.qkv.weight"}
HUGGING_FACE = {"decoder.mask_token", "decoder.decoder_embed.weight", "vit.embeddings.cls_token"}
HEADS = {768: 12, 1024: 16, 1280: 16, 512: 16}
"""By width: B, L and H, and the decoder of all three."""
POSITIONS = {"original": ("pos_embed", "decoder_pos_embed")} | {
    "transformers": ("vit.embeddings.position_embeddings", "decoder.decoder_pos_embed")
}
_SIDES = ("weight", "bias")
_PARTS = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
_LAYERS = {
    "norm1": ("layernorm_before",),
    "attn.qkv": tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
    "attn.proj": ("attention.output.dense",),
    "norm2": ("layernorm_after",),
    "mlp.fc1": ("intermediate.dense",),
    "mlp.fc2": ("output.dense",),
}


def _table(style: str) -> tuple[list[Row], list[Row]]:
    """(encoder's rows, decoder's rows), the blocks' with `{i}`."""
    original = style == "original"
    vit, decoder = ("", "decoder_") if original else ("vit.", "decoder.decoder_")
    plain = {
        "encoder.patch_embed": "patch_embed.proj" if original else "vit.embeddings.patch_embeddings.projection",
        "encoder.norm": "norm" if original else "vit.layernorm",
        "decoder.embed": f"{decoder}embed",
        "decoder.norm": f"{decoder}norm",
        "decoder.head": f"{decoder}pred",
    }
    rows = [Row(f"{ours}.{side}", (f"{theirs}.{side}",)) for ours, theirs in plain.items() for side in _SIDES]
    rows.append(Row("encoder.cls_token", ("cls_token" if original else "vit.embeddings.cls_token",)))
    rows.append(Row("decoder.mask_token", ("mask_token" if original else "decoder.mask_token",)))
    stacks = {"encoder": f"{vit}blocks" if original else f"{vit}encoder.layer"}
    stacks["decoder"] = f"{decoder}blocks" if original else f"{decoder}layers"
    for half, stack in stacks.items():
        for part in _PARTS:
            names = (part,) if original else _LAYERS[part]
            layout = "joined" if len(names) == 3 else "same"
            for side in _SIDES:
                theirs = tuple(f"{stack}.{{i}}.{name}.{side}" for name in names)
                rows.append(Row(f"{half}.blocks.{{i}}.{part}.{side}", theirs, layout))
    encoder, decoder = ([row for row in rows if row.ours.startswith(half)] for half in ("encoder", "decoder"))
    return encoder, decoder


def plain(name: str) -> str:
    """transformers 5 writes the layers of the decoder under this odd name, and cannot mean another."""
    return name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers.")


def recognises(keys: Collection[str]) -> bool:
    """Whether this is an encoder with its decoder; an encoder alone is a plain ViT to look at."""
    return set(keys) >= SIGNATURE or set(keys) >= HUGGING_FACE


def read(
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    config: MAEConfig | None = None,
    told: Mapping[str, Any] | None = None,
) -> Foreign:
    """Config and tensors in our names; `config`, or fields of it in `told`, says what the file cannot: heads, the
    target, an oblong grid.

    WeightsError for missing or unknown keys, and for positions that are not the sines and cosines of the paper.
    """
    style = "original" if set(tensors) >= SIGNATURE else "transformers"
    tensors = {plain(name): tensor for name, tensor in tensors.items()}
    said: tuple[str, ...] = (f"names: mae, {style}",)
    if config is None:
        config = config_of(tensors, style, where, told or {})
        if told:
            said = (*said, f"from the config given: {', '.join(told)}")
        if config.target == "unknown":
            said = (*said, 'not in the file: whether the decoder predicts pixels or normalised ones (config "target")')
    _check_positions(tensors, config, style, where)
    named = {name: tensor for name, tensor in tensors.items() if name not in POSITIONS[style]}
    ours = to_ours(rows(config, style), named, where=where)
    preprocess = Preprocess(
        size=config.image,
        resize="crop",
        crop_fraction=0.875,
        interpolation="bicubic",
        mean=IMAGENET[0],
        std=IMAGENET[1],
    )
    if config.channels != 3:
        preprocess = dataclasses.replace(preprocess, mean=(0.5,) * config.channels, std=(0.5,) * config.channels)
    return Foreign(config, ours, preprocess, LICENCE, said)


def write(state: Mapping[str, Tensor], config: MAEConfig, *, style: str = "original") -> dict[str, Tensor]:
    """A state under their names, with the fixed positions."""
    theirs = to_theirs(rows(config, style), state, heads=config.encoder.heads)
    widths = (config.encoder.width, config.decoder_width)
    return theirs | {name: _positions(config, width) for name, width in zip(POSITIONS[style], widths, strict=True)}


def rows(config: MAEConfig, style: str) -> list[Row]:
    encoder, decoder = _table(style)
    both = rows_of(encoder, config.encoder.depth) + rows_of(decoder, config.decoder_depth)
    return [row for row in both if config.encoder.extras.qkv_bias or not row.ours.endswith("qkv.bias")]


def config_of(tensors: Mapping[str, Tensor], style: str, where: str, told: Mapping[str, Any]) -> MAEConfig:
    """Every size is in a shape but the heads, which follow from published widths; `told` is laid over all of it."""
    names = {row.ours: row.theirs[0] for row in [row for half in _table(style) for row in half]}

    def shape(ours: str) -> tuple[int, ...]:
        return tuple(tensors[names[ours].format(i=0)].shape)

    try:
        width, channels, p, q = shape("encoder.patch_embed.weight")
        decoder_width = shape("decoder.embed.weight")[0]
        mlp_widths = [shape(f"{half}.blocks.{{i}}.mlp.fc1.weight")[0] for half in ("encoder", "decoder")]
        patches = tensors[POSITIONS[style][0]].shape[1] - 1
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
    side = math.isqrt(patches)
    depths = [_depth(tensors, names[f"{half}.blocks.{{i}}.norm1.weight"]) for half in ("encoder", "decoder")]
    encoder = {
        "family": "vit",
        "width": width,
        "depth": depths[0],
        "heads": HEADS.get(width),
        "mlp_width": mlp_widths[0],
        "patch": [p, q],
        "image": [side * p, side * q] if side * side == patches else None,
        "channels": channels,
        "classes": 0,
        "positions": "sincos-mae",
        "qkv_bias": names["encoder.blocks.{i}.attn.qkv.bias"].format(i=0) in tensors,
        "norm_eps": 1e-6 if style == "original" else 1e-12,
        **told.get("encoder", {}),
    }
    found = {
        "family": "mae",
        "decoder_width": decoder_width,
        "decoder_depth": depths[1],
        "decoder_heads": HEADS.get(decoder_width),
        "decoder_mlp_width": mlp_widths[1],
        "target": "unknown",
        **told,
        "encoder": encoder,
    }
    if None in (encoder["heads"], encoder["image"], found["decoder_heads"]):
        what = f"{patches} positions, widths {width} and {decoder_width}"
        raise WeightsError(
            f"{where}: {what}: none of the published models",
            next_step='give its MAEConfig as config=…, or say config={"encoder": {"heads": …}, "decoder_heads": …}',
        )
    return configs.from_dict(MAEConfig, found, where=where)


def _depth(tensors: Mapping[str, Tensor], pattern: str) -> int:
    before, after = pattern.split("{i}")
    return sum(name.startswith(before) and name.endswith(after) for name in tensors)


def _check_positions(tensors: Mapping[str, Tensor], config: MAEConfig, style: str, where: str) -> None:
    """Theirs are stored though they are fixed, and only the paper's can be left out."""
    for name, width in zip(POSITIONS[style], (config.encoder.width, config.decoder_width), strict=True):
        if name in tensors and not _same(tensors[name], _positions(config, width)):
            raise WeightsError(
                f"{where}: {name} is not the sin-cos table", next_step="its positions were trained or moved"
            )


def _positions(config: MAEConfig, width: int) -> Tensor:
    """[0; sin-cos], with the class token's zeros."""
    return torch.cat([torch.zeros(1, 1, width), sincos(config.grid, width, "sincos-mae")], dim=1)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.float(), other, atol=1e-5)


LIBRARY = LIBRARIES.register(
    "mae",
    Library(suffixes=(".safetensors",), writers={"mae": write}, tellable=("encoder", "decoder_heads", "target")),
)
transformers.LIBRARY.writers["mae"] = partial(write, style="transformers")
