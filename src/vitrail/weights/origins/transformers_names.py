"""The names of tensors in files of transformers, one table a model; the same in all its versions."""

import re

from vitrail.weights.name_tables import Row, pair, pairs, prefixed

_LAYER = "encoder.layer.{i}."
_UNGATED, _GATED = ("gated", False), ("gated", True)
_STUDENT, _PLAIN = ("family", "deit"), ("family", "vit")


def _attention(ours: str, theirs: str) -> tuple[Row, ...]:
    qkv = tuple(f"{theirs}attention.attention.{part}" for part in ("query", "key", "value"))
    return (
        *pair(f"{ours}attn.qkv", *qkv, layouts=("joined", "joined")),
        *pair(f"{ours}attn.proj", f"{theirs}attention.output.dense"),
    )


def _joined(ours: str, theirs: str, out: str) -> tuple[Row, ...]:
    """Attention whose parts are called q_proj, k_proj, v_proj and `out`."""
    qkv = tuple(f"{theirs}{part}_proj" for part in "qkv")
    return (*pair(f"{ours}attn.qkv", *qkv, layouts=("joined", "joined")), *pair(f"{ours}attn.proj", theirs + out))


_PATCHES = pair("patch_embed", "embeddings.patch_embeddings.projection")
_BODY = (
    *_PATCHES,
    Row("cls_token", ("embeddings.cls_token",)),
    Row("positions.table", ("embeddings.position_embeddings",)),
    *_attention("blocks.{i}.", _LAYER),
    *pair("norm", "layernorm"),
)
_VIT = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_PLAIN_VIT = (*_BODY, *pairs("blocks.{i}.", _LAYER, _VIT))
VIT = (
    *_PLAIN_VIT,
    Row("registers", ("embeddings.distillation_token",)),
    *pair("pre_logits", "pooler.dense"),
    *pair("head", "classifier", when=_PLAIN),
    *pair("head.label", "cls_classifier", when=_STUDENT),
    *pair("head.teacher", "distillation_classifier", when=_STUDENT),
)
_SCALES = (
    Row("blocks.{i}.ls1.gamma", (_LAYER + "layer_scale1.lambda1",)),
    Row("blocks.{i}.ls2.gamma", (_LAYER + "layer_scale2.lambda1",)),
)
DINOV2 = (
    *_BODY,
    *pairs("blocks.{i}.", _LAYER, {"norm1": "norm1", "norm2": "norm2"}),
    Row("mask_token", ("embeddings.mask_token",)),
    Row("registers", ("embeddings.register_tokens",)),
    *pairs("blocks.{i}.mlp.", f"{_LAYER}mlp.", {"fc1": "fc1", "fc2": "fc2"}, when=_UNGATED),
    *pairs("blocks.{i}.mlp.", f"{_LAYER}mlp.", {"fc1": "weights_in", "fc2": "weights_out"}, when=_GATED),
    *_SCALES,
    *pair("head", "classifier"),
)
PIXIO = (
    *_PATCHES,
    Row("cls_token", ("embeddings.cls_token",), "first token"),
    Row("registers", ("embeddings.cls_token",), "other tokens"),
    Row("positions.table", ("embeddings.position_embeddings",)),
    *_attention("blocks.{i}.", _LAYER),
    *pairs("blocks.{i}.", _LAYER, {**_VIT, "norm1": "norm1", "norm2": "norm2"}),
    *pair("norm", "layernorm"),
)
_DINO3 = "layer.{i}."
DINOV3 = (
    *pair("patch_embed", "embeddings.patch_embeddings"),
    Row("cls_token", ("embeddings.cls_token",)),
    Row("mask_token", ("embeddings.mask_token",), "row"),
    Row("registers", ("embeddings.register_tokens",)),
    *pairs("blocks.{i}.", _DINO3, {"norm1": "norm1", "norm2": "norm2"}),
    Row("blocks.{i}.attn.qkv.weight", tuple(f"{_DINO3}attention.{part}_proj.weight" for part in "qkv"), "joined"),
    Row("blocks.{i}.attn.qkv.bias", tuple(f"{_DINO3}attention.{part}_proj.bias" for part in "qv"), "q v"),
    *pair("blocks.{i}.attn.proj", f"{_DINO3}attention.o_proj"),
    Row("blocks.{i}.ls1.gamma", (_DINO3 + "layer_scale1.lambda1",)),
    Row("blocks.{i}.ls2.gamma", (_DINO3 + "layer_scale2.lambda1",)),
    *pair("blocks.{i}.mlp.fc1", f"{_DINO3}mlp.up_proj", when=_UNGATED),
    *pair(
        "blocks.{i}.mlp.fc1",
        f"{_DINO3}mlp.gate_proj",
        f"{_DINO3}mlp.up_proj",
        layouts=("joined", "joined"),
        when=_GATED,
    ),
    *pair("blocks.{i}.mlp.fc2", f"{_DINO3}mlp.down_proj"),
    *pair("norm", "norm"),
)
_TOWER = "encoder.layers.{i}."
_TOWERS = (
    Row("positions.table", ("embeddings.position_embedding.weight",), "table"),
    *pairs("blocks.{i}.", _TOWER, {"norm1": "layer_norm1", "norm2": "layer_norm2"}),
    *_joined("blocks.{i}.", f"{_TOWER}self_attn.", "out_proj"),
    *pairs("blocks.{i}.", _TOWER, {"mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}),
    *pair("norm", "post_layernorm"),
)
CLIP_TOWER = (
    Row("patch_embed.weight", ("embeddings.patch_embedding.weight",)),
    Row("cls_token", ("embeddings.class_embedding",), "vector"),
    *pair("pre_norm", "pre_layrnorm"),  # so it is spelt
    *_TOWERS,
    Row("projection.weight", ("visual_projection.weight",)),
)
_KERNEL = "embeddings.patch_embedding"
_NAFLEX, _FIXED = ("position_resize", "bilinear-antialias"), ("position_resize", "bicubic")
SIGLIP = (
    Row("patch_embed.weight", (f"{_KERNEL}.weight",), "patch conv", when=_FIXED),
    Row("patch_embed.weight", (f"{_KERNEL}.weight",), "patch rows", when=_NAFLEX),
    Row("patch_embed.bias", (f"{_KERNEL}.bias",)),
    *_TOWERS,
    Row("attention_pool.probe", ("head.probe",)),
    *(
        Row(f"attention_pool.{ours}.{end}", (f"head.attention.in_proj_{end}",), layout)
        for end in ("weight", "bias")
        for ours, layout in (("q", "q of three"), ("kv", "k and v of three"))
    ),
    *pair("attention_pool.proj", "head.attention.out_proj"),
    *pairs("attention_pool.", "head.", {"norm": "layernorm", "mlp.fc1": "mlp.fc1", "mlp.fc2": "mlp.fc2"}),
    *pair("head", "classifier"),
)
_DECODER = "decoder.decoder_layers.{i}."
MAE = (
    *prefixed(_PLAIN_VIT, "encoder.", "vit."),
    *pairs("decoder.", "decoder.decoder_", {"embed": "embed", "norm": "norm", "head": "pred"}),
    Row("decoder.mask_token", ("decoder.mask_token",)),
    *_attention("decoder.blocks.{i}.", _DECODER),
    *pairs("decoder.blocks.{i}.", _DECODER, _VIT),
    Row("decoder.positions.table", ("decoder.decoder_pos_embed",)),
)
_UNIT, _STAGE = "blocks.{b}.{u}.", "encoder.stages.{b}.layers.{u}."
BIT = (
    Row("root.weight", ("embedder.convolution.weight",)),
    *pairs(_UNIT, _STAGE, {"conv{n}": "conv{n}", "norm{n}": "norm{n}", "shortcut": "downsample.conv"}),
    *pair("norm", "norm"),
    *pair("head", "classifier.1"),
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
