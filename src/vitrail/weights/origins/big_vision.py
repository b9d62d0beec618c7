"""google-research/big_vision (.npz, JAX names): ViTs pooled by mean, class token or attention, scanned blocks too; BiT.

Its code adds positions to the patches only, and fixes the rest: tanh GELU, 1e-6, sin-cos where no table is stored.
"""

import re

from vitrail.images.preprocess import Preprocess
from vitrail.weights.name_tables import Row, pair, pairs, tensors
from vitrail.weights.origin import ORIGINS, Origin, Style

_BLOCK = "Transformer/encoderblock_{i}/"
JAX = ("/kernel", "/bias")
NORM = ("/scale", "/bias")
_QKV = ("qkv", "qkv bias")
_DENSE = {"ends": JAX, "layouts": ("dense", "same")}


# vit_rows and what it is made of are google.py's too: both name the parts of a flax module
def attention(ours: str, theirs: str) -> tuple[Row, ...]:
    return (
        *pair(f"{ours}.qkv", *(theirs + part for part in ("query", "key", "value")), ends=JAX, layouts=_QKV),
        *pair(f"{ours}.proj", f"{theirs}out", ends=JAX, layouts=("out", "same")),
    )


def mlp(ours: str, theirs: str) -> tuple[Row, ...]:
    return pairs(f"{ours}.", theirs, {"fc1": "Dense_0", "fc2": "Dense_1"}, **_DENSE)


def vit_rows(positions: str, attn: str, norm2: str, dense: str) -> tuple[Row, ...]:
    """A ViT of flax, whose versions number the modules of a block in two ways."""
    return (
        *pair("patch_embed", "embedding", ends=JAX, layouts=("conv", "same")),
        *tensors("", "", {"cls_token": "cls", "positions.table": positions}),
        *pairs("blocks.{i}.", _BLOCK, {"norm1": "LayerNorm_0", "norm2": norm2}, ends=NORM),
        *attention("blocks.{i}.attn", f"{_BLOCK}{attn}/"),
        *mlp("blocks.{i}.mlp", f"{_BLOCK}{dense}/"),
        *pair("norm", "Transformer/encoder_norm", ends=NORM),
        *pairs("", "", ["pre_logits", "head"], **_DENSE),
    )


LINEN = ("MultiHeadDotProductAttention_0", "LayerNorm_1", "MlpBlock_0")
_POOL = "MAPHead_0/MultiHeadDotProductAttention_0/"
TABLE = (
    *vit_rows("pos_embedding", *LINEN),
    *tensors("attention_pool.", "MAPHead_0/", ["probe"]),
    *pair("attention_pool.q", f"{_POOL}query", ends=JAX, layouts=_QKV),
    *pair("attention_pool.kv", f"{_POOL}key", f"{_POOL}value", ends=JAX, layouts=_QKV),
    *pair("attention_pool.proj", f"{_POOL}out", ends=JAX, layouts=("out", "same")),
    *pair("attention_pool.norm", "MAPHead_0/LayerNorm_0", ends=NORM),
    *mlp("attention_pool.mlp", "MAPHead_0/MlpBlock_0/"),
)
HABITS = {"activation": "gelu-tanh", "norm_eps": 1e-6, "position_resize": "bilinear", "pool": "cls"}
_UNIT, _V2, _V1 = "blocks.{b}.{u}.", "block{B}/unit{U:02}/", "block{B}/unit{U}/"
BIT = (
    Row("root.weight", ("root_block/conv_root/kernel",), "conv"),
    Row(_UNIT + "conv{n}.weight", (_V2 + "conv{n}/kernel",), "conv"),
    *pair(_UNIT + "norm{n}", _V2 + "gn{n}", ends=NORM, layouts=("spread", "spread")),
    Row(_UNIT + "shortcut.weight", (_V2 + "conv_proj/kernel",), "conv"),
    *pair("norm", "norm-pre-head", ends=NORM, layouts=("spread", "spread")),
    *pair("head", "head", **_DENSE),
)
V1 = {"order": "post", "padding": "same", "standardise": "deviation", "standardise_eps": 1e-5, "norm_eps": 1e-6}


def hybrid_resnet(layout: str) -> tuple[Row, ...]:
    """A ResNet-v1 without its head, which is the stem of Google's hybrids too; `layout` is that of its GroupNorms."""
    return (
        Row("root.weight", ("conv_root/kernel",), "conv"),
        *pair("root_norm", "gn_root", ends=NORM, layouts=(layout, layout)),
        Row(_UNIT + "conv{n}.weight", (_V1 + "conv{n}/kernel",), "conv"),
        *pair(_UNIT + "norm{n}", _V1 + "gn{n}", ends=NORM, layouts=(layout, layout)),
        Row(_UNIT + "shortcut.weight", (_V1 + "conv_proj/kernel",), "conv"),
        *pair(_UNIT + "shortcut_norm", _V1 + "gn_proj", ends=NORM, layouts=(layout, layout)),
    )


def _vit(block: str, stack: str = "") -> Style:
    # resize_small(256) | central_crop(224) | value_range(-1, 1)
    preprocess = Preprocess(resize="crop", crop_fraction=0.875)
    always = {"embedding/kernel", "Transformer/encoder_norm/scale", f"Transformer/{block}/MlpBlock_0/Dense_0/kernel"}
    never = {"Transformer/posembed_input/pos_embedding", "conv_root/kernel"}
    return Style(
        TABLE,
        always,
        {**HABITS, "positions": "sincos", "positions_on": "patches"},
        preprocess,
        "Apache-2.0",
        never=never,
        stack=stack,
        plain=lambda name: re.sub(r"^(params|opt/target|target)/", "", name),
    )


ORIGIN = Origin(
    "big_vision",
    {
        "a block an array": _vit("encoderblock_0"),
        "scanned": _vit("encoderblock", "Transformer/encoderblock/"),
        "BiT": Style(
            BIT,
            {"root_block/conv_root/kernel", "block1/unit01/conv1/kernel"},
            {"padding": "symmetric"},
            licence="Apache-2.0",
            shapes="resnet",
            writes=lambda config: config.order == "pre",
        ),
        "BiT v1": Style(
            (*hybrid_resnet("flat"), *pair("head", "head", **_DENSE)),
            {"conv_root/kernel", "block1/unit1/conv1/kernel"},
            V1,
            licence="Apache-2.0",
            shapes="resnet",
            never={"Transformer/encoder_norm/scale"},
        ),
    },
    suffixes=(".npz",),
    keeps_sincos=True,
)
ORIGINS.register(ORIGIN.name, ORIGIN)
