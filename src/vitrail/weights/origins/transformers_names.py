"""The names of tensors in files of transformers, one table a model; the same in all its versions."""

import re

from vitrail.weights.name_tables import Row, joined_pool, pair, pairs, prefixed, tensors

_OURS, _LAYER = "blocks.{i}.", "encoder.layer.{i}."
_UNGATED, _GATED = ("gated", False), ("gated", True)
_STUDENT, _PLAIN = ("family", "deit"), ("family", "vit")
_SCALES = {"ls{n}.gamma": "layer_scale{n}.lambda1"}


def _attention(ours: str, theirs: str) -> tuple[Row, ...]:
    qkv = (f"{theirs}attention.attention.{part}" for part in ("query", "key", "value"))
    return (*pair(f"{ours}attn.qkv", *qkv), *pair(f"{ours}attn.proj", f"{theirs}attention.output.dense"))


_PATCHES = pair("patch_embed", "embeddings.patch_embeddings.projection")
_TABLE = tensors("", "embeddings.", {"positions.table": "position_embeddings"})
_BODY = (
    *_PATCHES,
    *tensors("", "embeddings.", ["cls_token"]),
    *_TABLE,
    *_attention(_OURS, _LAYER),
    *pair("norm", "layernorm"),
)
_MLP = {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
_VIT = {"norm1": "layernorm_before", "norm2": "layernorm_after", **_MLP}
_PLAIN_VIT = (*_BODY, *pairs(_OURS, _LAYER, _VIT))
VIT = (
    *_PLAIN_VIT,
    *tensors("", "embeddings.", {"registers": "distillation_token"}),
    *pair("pre_logits", "pooler.dense"),
    *pair("head", "classifier", when=_PLAIN),
    *pairs("head.", "", {"label": "cls_classifier", "teacher": "distillation_classifier"}, when=_STUDENT),
)
DINOV2 = (
    *_BODY,
    *pairs(_OURS, _LAYER, ["norm{n}"]),
    *tensors("", "embeddings.", {"mask_token": "mask_token", "registers": "register_tokens"}),
    *pairs(_OURS, _LAYER, ["mlp.fc{n}"], when=_UNGATED),
    *pairs(_OURS, _LAYER, {"mlp.fc1": "mlp.weights_in", "mlp.fc2": "mlp.weights_out"}, when=_GATED),
    *tensors(_OURS, _LAYER, _SCALES),
    *pair("head", "classifier"),
)
PIXIO = (
    *_PATCHES,
    *tensors("", "embeddings.", ["cls_token"], layout="first token"),
    *tensors("", "embeddings.", {"registers": "cls_token"}, layout="other tokens"),
    *_TABLE,
    *_attention(_OURS, _LAYER),
    *pairs(_OURS, _LAYER, {"norm{n}": "norm{n}", **_MLP}),
    *pair("norm", "layernorm"),
)
_DINO3 = "layer.{i}."
DINOV3 = (
    *pairs("", "", {"patch_embed": "embeddings.patch_embeddings", "norm": "norm"}),
    *tensors("", "embeddings.", {"cls_token": "cls_token", "registers": "register_tokens"}),
    *tensors("", "embeddings.", ["mask_token"], layout="row"),
    *pairs(_OURS, _DINO3, {"norm{n}": "norm{n}", "attn.proj": "attention.o_proj", "mlp.fc2": "mlp.down_proj"}),
    Row("blocks.{i}.attn.qkv.weight", tuple(f"{_DINO3}attention.{part}_proj.weight" for part in "qkv")),
    Row("blocks.{i}.attn.qkv.bias", tuple(f"{_DINO3}attention.{part}_proj.bias" for part in "qv"), "q v"),
    *tensors(_OURS, _DINO3, _SCALES),
    *pair("blocks.{i}.mlp.fc1", f"{_DINO3}mlp.up_proj", when=_UNGATED),
    *pair("blocks.{i}.mlp.fc1", f"{_DINO3}mlp.gate_proj", f"{_DINO3}mlp.up_proj", when=_GATED),
)


def tower_layers(start: str) -> tuple[Row, ...]:
    """The blocks of an image tower, or of a text tower."""
    layer = f"{start}encoder.layers.{{i}}."
    parts = {"norm{n}": "layer_norm{n}", "attn.proj": "self_attn.out_proj", "mlp.fc{n}": "mlp.fc{n}"}
    return (
        *pairs(_OURS, layer, parts),
        *pair(f"{_OURS}attn.qkv", *(f"{layer}self_attn.{part}_proj" for part in "qkv")),
    )


_KERNEL = "embeddings.patch_embedding"
_TOWERS = (
    Row("positions.table", ("embeddings.position_embedding.weight",), "table"),
    *tower_layers(""),
    *pair("norm", "post_layernorm"),
)
CLIP_TOWER = (
    Row("patch_embed.weight", (f"{_KERNEL}.weight",)),
    Row("cls_token", ("embeddings.class_embedding",), "vector"),
    *pair("pre_norm", "pre_layrnorm"),  # so it is spelt
    *_TOWERS,
    Row("projection.weight", ("visual_projection.weight",)),
)
_NAFLEX, _FIXED = ("position_resize", "bilinear-antialias"), ("position_resize", "bicubic")
SIGLIP = (
    Row("patch_embed.weight", (f"{_KERNEL}.weight",), "patch conv", when=_FIXED),
    Row("patch_embed.weight", (f"{_KERNEL}.weight",), "patch rows", when=_NAFLEX),
    Row("patch_embed.bias", (f"{_KERNEL}.bias",)),
    *_TOWERS,
    *tensors("attention_pool.", "head.", ["probe"]),
    *joined_pool("head.attention."),
    *pairs("attention_pool.", "head.", {"proj": "attention.out_proj", "norm": "layernorm", "mlp.fc{n}": "mlp.fc{n}"}),
    *pair("head", "classifier"),
)
_DECODER = "decoder.decoder_layers.{i}."
MAE = (
    *prefixed(_PLAIN_VIT, "encoder.", "vit."),
    *pairs("decoder.", "decoder.decoder_", {"embed": "embed", "norm": "norm", "head": "pred"}),
    *tensors("decoder.", "decoder.", {"mask_token": "mask_token", "positions.table": "decoder_pos_embed"}),
    *_attention("decoder.blocks.{i}.", _DECODER),
    *pairs("decoder.blocks.{i}.", _DECODER, _VIT),
)
_UNIT, _STAGE = "blocks.{b}.{u}.", "encoder.stages.{b}.layers.{u}."
BIT = (
    Row("root.weight", ("embedder.convolution.weight",)),
    *pairs(_UNIT, _STAGE, {"conv{n}": "conv{n}", "norm{n}": "norm{n}", "shortcut": "downsample.conv"}),
    *pairs("", "", {"norm": "norm", "head": "classifier.1"}),
)
_OF_TODAY = (
    (r"^layers\.(\d+)\.mlp\.fc1\.", r"layers.\1.intermediate.dense."),
    (r"^layers\.(\d+)\.mlp\.fc2\.", r"layers.\1.output.dense."),
    (r"^layers\.", "encoder.layer."),
    (r"attention\.q_proj", "attention.attention.query"),
    (r"attention\.k_proj", "attention.attention.key"),
    (r"attention\.v_proj", "attention.attention.value"),
    (r"attention\.o_proj", "attention.output.dense"),
)
"""From what version 5 calls its modules to what all versions call them in files."""


def plain(name: str) -> str:
    """The name in a file, without the prefix of a model with a head."""
    name = re.sub(r"^(vit|deit|ijepa|vit_msn|dinov2|dinov2_with_registers|pixio)\.", "", name)
    for theirs, filed in _OF_TODAY:
        name = re.sub(theirs, filed, name)
    return name
