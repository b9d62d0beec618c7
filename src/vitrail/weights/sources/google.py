"""ViTs of google-research/vision_transformer, as published in .npz files (JAX names), both naming styles.

A file says all but activation, epsilon and preprocessing: there the original's code speaks (tanh, 1e-6, 0.5 ± 0.5).
"""

import math
from collections.abc import Collection, Mapping

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.vit import ViTConfig
from vitrail.weights.sources.table import Foreign, Row, rows_of, to_ours, to_theirs

NAME = "google"
LICENCE = "Apache-2.0"

_BLOCK = "Transformer/encoderblock_{i}/"
_SELF = _BLOCK + "<attn>/"

SIGNATURE = {"embedding/kernel", "Transformer/encoder_norm/scale", "Transformer/encoderblock_0/LayerNorm_0/scale"}

TABLE = (
    Row("patch_embed.weight", ("embedding/kernel",), "conv"),
    Row("patch_embed.bias", ("embedding/bias",)),
    Row("cls_token", ("cls",)),
    Row("positions.table", ("Transformer/posembed_input/pos_embedding",)),
    Row("blocks.{i}.norm1.weight", (_BLOCK + "LayerNorm_0/scale",)),
    Row("blocks.{i}.norm1.bias", (_BLOCK + "LayerNorm_0/bias",)),
    Row("blocks.{i}.attn.qkv.weight", tuple(_SELF + f"{part}/kernel" for part in ("query", "key", "value")), "qkv"),
    Row("blocks.{i}.attn.qkv.bias", tuple(_SELF + f"{part}/bias" for part in ("query", "key", "value")), "qkv bias"),
    Row("blocks.{i}.attn.proj.weight", (_SELF + "out/kernel",), "out"),
    Row("blocks.{i}.attn.proj.bias", (_SELF + "out/bias",)),
    Row("blocks.{i}.norm2.weight", (_BLOCK + "<norm2>/scale",)),
    Row("blocks.{i}.norm2.bias", (_BLOCK + "<norm2>/bias",)),
    Row("blocks.{i}.mlp.fc1.weight", (_BLOCK + "<mlp>/Dense_0/kernel",), "dense"),
    Row("blocks.{i}.mlp.fc1.bias", (_BLOCK + "<mlp>/Dense_0/bias",)),
    Row("blocks.{i}.mlp.fc2.weight", (_BLOCK + "<mlp>/Dense_1/kernel",), "dense"),
    Row("blocks.{i}.mlp.fc2.bias", (_BLOCK + "<mlp>/Dense_1/bias",)),
    Row("norm.weight", ("Transformer/encoder_norm/scale",)),
    Row("norm.bias", ("Transformer/encoder_norm/bias",)),
    Row("pre_logits.weight", ("pre_logits/kernel",), "dense"),
    Row("pre_logits.bias", ("pre_logits/bias",)),
    Row("head.weight", ("head/kernel",), "dense"),
    Row("head.bias", ("head/bias",)),
)

# flax numbered a module's children over all kinds until "linen", since then by kind
STYLES = {
    "published": {"<attn>": "MultiHeadDotProductAttention_1", "<norm2>": "LayerNorm_2", "<mlp>": "MlpBlock_3"},
    "linen": {"<attn>": "MultiHeadDotProductAttention_0", "<norm2>": "LayerNorm_1", "<mlp>": "MlpBlock_0"},
}


def recognises(keys: Collection[str]) -> bool:
    """Whether this is one of theirs; a hybrid, whose stem is a ResNet, is hybrid.py's."""
    return set(keys) >= SIGNATURE and "conv_root/kernel" not in keys


def read(tensors: Mapping[str, Tensor], *, where: str, config: ViTConfig | None = None) -> Foreign:
    """Config and tensors in our names; `config` says what the file cannot, an oblong grid.

    WeightsError for missing or unknown keys, and for positions on no square grid.
    """
    style = "linen" if "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" in tensors else "published"
    config = config or config_of(tensors, style, where)
    return Foreign(config, to_ours(rows(config, style), tensors, where=where), Preprocess(size=config.image), LICENCE)


def write(state: Mapping[str, Tensor], config: ViTConfig, *, style: str = "published") -> dict[str, Tensor]:
    """A state of ours as their arrays."""
    return to_theirs(rows(config, style), state, heads=config.heads)


def rows(config: ViTConfig, style: str) -> list[Row]:
    """The table for one model: blocks written out, names in one style, without what the model does not have."""
    absent = (
        *(() if config.has_class_token else ("cls_token",)),
        *(() if config.pre_logits else ("pre_logits.",)),
        *(() if config.classes else ("head.",)),
    )
    written = rows_of([row for row in TABLE if not row.ours.startswith(absent)], config.depth)
    return [Row(row.ours, tuple(_styled(name, style) for name in row.theirs), row.layout) for row in written]


def _styled(name: str, style: str) -> str:
    for word, theirs in STYLES[style].items():
        name = name.replace(word, theirs)
    return name


def config_of(tensors: Mapping[str, Tensor], style: str, where: str) -> ViTConfig:
    """Every size is in a shape, the heads too: their query kernels are D A d."""
    try:
        first = "Transformer/encoderblock_0/"
        attention, mlp = STYLES[style]["<attn>"], STYLES[style]["<mlp>"]
        p, q, channels, width = tensors["embedding/kernel"].shape
        heads = tensors[f"{first}{attention}/query/kernel"].shape[1]
        mlp_width = tensors[f"{first}{mlp}/Dense_0/kernel"].shape[1]
        patches = tensors["Transformer/posembed_input/pos_embedding"].shape[1] - ("cls" in tensors)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
    side = math.isqrt(patches)
    if side * side != patches:
        raise WeightsError(f"{where}: {patches} positions make no square grid", next_step="their models are square")
    return ViTConfig(
        width=width,
        depth=len({name.split("/")[1] for name in tensors if name.startswith("Transformer/encoderblock_")}),
        heads=heads,
        mlp_width=mlp_width,
        patch=(p, q),
        image=(side * p, side * q),
        channels=channels,
        classes=len(tensors["head/bias"]) if "head/bias" in tensors else 0,
        pool="cls" if "cls" in tensors else "mean",
        pre_logits=len(tensors["pre_logits/bias"]) if "pre_logits/bias" in tensors else 0,
        activation="gelu-tanh",
    )
