"""ViTs of google-research/big_vision (.npz, JAX names): pooled by mean, class token or attention; scanned blocks too.

Its code adds positions to the patches only, and fixes the rest: tanh GELU, 1e-6, sin-cos where no table is stored.
"""

import re

from vitrail.images.preprocess import Preprocess
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.origin import Origin, Style, pair
from vitrail.weights.origins.table import Row

_BLOCK = "Transformer/encoderblock_{i}/"
JAX = ("/kernel", "/bias")
NORM = ("/scale", "/bias")
_QKV = ("qkv", "qkv bias")


# also google.py's: both name the parts of a flax module
def attention(ours: str, theirs: str) -> tuple[Row, ...]:
    return (
        *pair(f"{ours}.qkv", *(theirs + part for part in ("query", "key", "value")), ends=JAX, layouts=_QKV),
        *pair(f"{ours}.proj", f"{theirs}out", ends=JAX, layouts=("out", "same")),
    )


def mlp(ours: str, theirs: str) -> tuple[Row, ...]:
    names = (("fc1", "Dense_0"), ("fc2", "Dense_1"))
    return tuple(
        row for our, name in names for row in pair(f"{ours}.{our}", theirs + name, ends=JAX, layouts=("dense", "same"))
    )


TABLE = (
    *pair("patch_embed", "embedding", ends=JAX, layouts=("conv", "same")),
    Row("cls_token", ("cls",)),
    Row("positions.table", ("pos_embedding",)),
    *pair("blocks.{i}.norm1", _BLOCK + "LayerNorm_0", ends=NORM),
    *attention("blocks.{i}.attn", _BLOCK + "MultiHeadDotProductAttention_0/"),
    *pair("blocks.{i}.norm2", _BLOCK + "LayerNorm_1", ends=NORM),
    *mlp("blocks.{i}.mlp", _BLOCK + "MlpBlock_0/"),
    *pair("norm", "Transformer/encoder_norm", ends=NORM),
    Row("attention_pool.probe", ("MAPHead_0/probe",)),
    *pair("attention_pool.q", "MAPHead_0/MultiHeadDotProductAttention_0/query", ends=JAX, layouts=_QKV),
    *pair(
        "attention_pool.kv",
        *(f"MAPHead_0/MultiHeadDotProductAttention_0/{part}" for part in ("key", "value")),
        ends=JAX,
        layouts=_QKV,
    ),
    *pair("attention_pool.proj", "MAPHead_0/MultiHeadDotProductAttention_0/out", ends=JAX, layouts=("out", "same")),
    *pair("attention_pool.norm", "MAPHead_0/LayerNorm_0", ends=NORM),
    *mlp("attention_pool.mlp", "MAPHead_0/MlpBlock_0/"),
    *pair("pre_logits", "pre_logits", ends=JAX, layouts=("dense", "same")),
    *pair("head", "head", ends=JAX, layouts=("dense", "same")),
)

_ALWAYS = frozenset({"embedding/kernel", "Transformer/encoder_norm/scale"})
_HABITS = {
    "activation": "gelu-tanh",
    "norm_eps": 1e-6,
    "positions": "sincos",
    "positions_on": "patches",
    "position_resize": "bilinear",
    "pool": "cls",
}
# resize_small(256) | central_crop(224) | value_range(-1, 1)
_PREPROCESS = Preprocess(resize="crop", crop_fraction=0.875)
_NEVER = frozenset({"Transformer/posembed_input/pos_embedding", "conv_root/kernel"})


def _style(block: str, stack: str = "") -> Style:
    signature = _ALWAYS | {f"Transformer/{block}/MlpBlock_0/Dense_0/kernel"}
    return Style(TABLE, signature, _HABITS, _PREPROCESS, "Apache-2.0", _NEVER, stack=stack)


ORIGIN = Origin(
    "big_vision",
    {"a block an array": _style("encoderblock_0"), "scanned": _style("encoderblock", "Transformer/encoderblock/")},
    plain=lambda name: re.sub(r"^(params|opt/target|target)/", "", name),
)
LIBRARY = LIBRARIES.register(
    "big_vision", Library(suffixes=(".npz",), writers={"vit": ORIGIN.write}, keeps_sincos=True)
)
