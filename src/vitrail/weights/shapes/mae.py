"""Masked autoencoders: two stacks of blocks, and positions that are stored though they are fixed."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.models.mae import MAEConfig
from vitrail.models.positions import sincos
from vitrail.weights.name_tables import count, to_shapes
from vitrail.weights.origin import SHAPES, Fields, Shapes, Style, Tensors, in_lists
from vitrail.weights.shapes import vit

DECODER_HEADS = {512: 16}
"""By width: the decoder of all published models."""
_OF_THE_VIT = ("width", "depth", "mlp_width", "patch", "channels", "classes", "qkv_bias")


class MAEShapes(Shapes):
    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[MAEConfig, list[str]]:
        ours = to_shapes(style.table, tensors, where)
        decoder = _decoder(ours)
        inside = {n.removeprefix("encoder."): tensor for n, tensor in ours.items() if n.startswith("encoder.")}
        encoder = {**style.habits, **_encoder(inside), **told.get("encoder", {})}
        found: dict[str, Any] = {"target": "unknown", **decoder, **told, "encoder": in_lists(encoder)}
        if None in (encoder["heads"], encoder["image"], found["decoder_heads"]):
            raise WeightsError(
                f"{where}: of widths {encoder['width']} and {found['decoder_width']}, or a grid that is not square: "
                "none of the published models",
                next_step='say what is missing: config={"encoder": {"heads": …, "image": […, …]}, "decoder_heads": …}',
            )
        silent = ['whether the decoder predicts pixels or normalised ones (config "target")']
        config = configs.from_dict(MAEConfig, found, where=where)
        return config, silent if config.target == "unknown" else []

    def strip(self, style: Style, tensors: dict[str, Tensor], config: MAEConfig, where: str) -> dict[str, Tensor]:
        """Without the tables of positions. WeightsError where they are not the paper's sines and cosines."""
        for name, table in _positions(style, config).items():
            stored = tensors.get(name, table)
            if stored.shape != table.shape or not torch.allclose(stored.float(), table, atol=1e-5):
                raise WeightsError(
                    f"{where}: {name} is not the sin-cos table", next_step="its positions were trained or moved"
                )
        return {name: tensor for name, tensor in tensors.items() if name not in _positions(style, config)}

    def complete(self, style: Style, tensors: dict[str, Tensor], config: MAEConfig) -> dict[str, Tensor]:
        return tensors | _positions(style, config)


SHAPES.register("mae", MAEShapes())


def _encoder(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    found = {name: value for name, value in vit.sizes(ours).items() if name in _OF_THE_VIT}
    patches = ours["positions.table"].shape[1] - 1
    side = math.isqrt(patches)
    image = [side * size for size in found["patch"]] if side * side == patches else None
    return {"family": "vit", "positions": "sincos-mae", "heads": vit.HEADS.get(found["width"]), "image": image, **found}


def _decoder(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    width = len(ours["decoder.embed.weight"])
    return {
        "family": "mae",
        "decoder_width": width,
        "decoder_depth": count(ours, "decoder.blocks."),
        "decoder_heads": DECODER_HEADS.get(width),
        "decoder_mlp_width": len(ours["decoder.blocks.0.mlp.fc1.weight"]),
    }


def _positions(style: Style, config: MAEConfig) -> dict[str, Tensor]:
    """[0; sin-cos] under their names, with the class token's zeros."""
    names = [row.theirs[0] for row in style.table if row.ours.endswith("positions.table")]
    widths = (config.encoder.width, config.decoder_width)
    return {
        name: torch.cat([torch.zeros(1, 1, width), sincos(config.grid, width, "sincos-mae")], dim=1)
        for name, width in zip(names, widths, strict=True)
    }
