"""The encoder of a pre-trained pair: what fine-tuning, probes and further pre-training start from."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vitrail.models import zoo
from vitrail.models.positions import sincos
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import ModelConfig


def encoder_config(config: ModelConfig) -> Any:
    """The config of the encoder inside, or the config itself where nothing is around it.

    A masked autoencoder's fixed positions become a learned table that starts from them, as in MAE's fine-tuning.
    """
    encoder: Any = config.encoder
    if encoder is config or encoder.positions != "sincos-mae":
        return encoder
    return zoo.change(encoder, positions="learned", positions_on="all", position_resize="bicubic", classes=0)


def encoder_of(tensors: Mapping[str, Tensor], config: ModelConfig) -> tuple[dict[str, Tensor], Any]:
    """(tensors, config) of the encoder inside, in the encoder's own names."""
    encoder: Any = config.encoder
    if encoder is config:
        return dict(tensors), config
    inside = "encoder."
    found = {name.removeprefix(inside): tensor for name, tensor in tensors.items() if name.startswith(inside)}
    if encoder.positions == "sincos-mae":
        found["positions.table"] = _sincos_table(encoder, encoder.prefix)
    return found, encoder_config(config)


def store_positions(tensors: Mapping[str, Tensor], config: ViTConfig, on: str) -> tuple[dict[str, Tensor], ViTConfig]:
    """(tensors, config) with the fixed sines and cosines as a stored table: the same outputs at the config's image size.

    `on` says which tokens before the patches the table has rows for; these are zero.
    """
    stored = zoo.change(config, positions="learned", positions_on=on)
    return {**tensors, "positions.table": _sincos_table(config, stored.positioned_prefix)}, stored


def _sincos_table(config: ViTConfig, prefix: int) -> Tensor:
    zeros = torch.zeros(1, prefix, config.width)
    return torch.cat([zeros, sincos(config.grid, config.width, config.positions)], dim=1)
