"""ViTs of google-research/vision_transformer, as published in .npz files (JAX names), both naming styles.

A file says all but activation, epsilon and preprocessing: there the original's code speaks (tanh, 1e-6, 0.5 ± 0.5).
"""

from collections.abc import Mapping

from torch import Tensor

from vitrail.images.preprocess import Preprocess
from vitrail.models.vit import ViTConfig
from vitrail.weights.origins.big_vision import JAX, NORM, attention, mlp
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.origin import Origin, Style, pair, present
from vitrail.weights.origins.table import Row

_BLOCK = "Transformer/encoderblock_{i}/"


def _table(attn: str, norm2: str, dense: str) -> tuple[Row, ...]:
    return (
        *pair("patch_embed", "embedding", ends=JAX, layouts=("conv", "same")),
        Row("cls_token", ("cls",)),
        Row("positions.table", ("Transformer/posembed_input/pos_embedding",)),
        *pair("blocks.{i}.norm1", _BLOCK + "LayerNorm_0", ends=NORM),
        *attention("blocks.{i}.attn", f"{_BLOCK}{attn}/"),
        *pair("blocks.{i}.norm2", _BLOCK + norm2, ends=NORM),
        *mlp("blocks.{i}.mlp", f"{_BLOCK}{dense}/"),
        *pair("norm", "Transformer/encoder_norm", ends=NORM),
        *pair("pre_logits", "pre_logits", ends=JAX, layouts=("dense", "same")),
        *pair("head", "head", ends=JAX, layouts=("dense", "same")),
    )


SIGNATURE = {"embedding/kernel", "Transformer/encoder_norm/scale", "Transformer/posembed_input/pos_embedding"}
HABITS = {
    "activation": "gelu-tanh",
    "norm_eps": 1e-6,
    "pool": "cls",
    "positions_on": "all",
    "position_resize": "bilinear",
}


def _style(attn: str, norm2: str, dense: str) -> Style:
    signature = frozenset(SIGNATURE | {f"Transformer/encoderblock_0/{dense}/Dense_0/kernel"})
    never = frozenset({"conv_root/kernel"})  # a hybrid: hybrid.py's
    return Style(_table(attn, norm2, dense), signature, HABITS, Preprocess(), "Apache-2.0", never)


# flax numbered a module's children over all kinds until "linen", since then by kind
ORIGIN = Origin(
    "google",
    {
        "published": _style("MultiHeadDotProductAttention_1", "LayerNorm_2", "MlpBlock_3"),
        "linen": _style("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0"),
    },
)


def rows(config: ViTConfig, style: str) -> list[Row]:
    """The table for one model, which hybrids share."""
    return present(ORIGIN.styles[style].table, config)


def config_of(tensors: Mapping[str, Tensor], style: str, where: str) -> ViTConfig:
    """The config that names and shapes give."""
    return ORIGIN.config(ORIGIN.styles[style], tensors, {}, where)[0]


LIBRARY = LIBRARIES.register("google", Library(suffixes=(".npz",), writers={"vit": ORIGIN.write}))
