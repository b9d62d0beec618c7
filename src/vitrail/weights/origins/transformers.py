"""Hugging Face transformers: ViT, DeiT, I-JEPA, MSN, DINOv2, DINOv3, TIPSv2, Pixio, SigLIP, CLIP, ViTMAE, BiT.

With or without the prefix of a bare model, and with or without a text tower. config.json and preprocessor_config.json,
which lie next to the tensors, say what these do not.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from vitrail.images.preprocess import CLIP, Preprocess
from vitrail.weights.name_tables import Row
from vitrail.weights.origin import CROP, ORIGINS, Origin, Style
from vitrail.weights.origins import dinov2, dinov3
from vitrail.weights.origins import transformers_names as names
from vitrail.weights.origins.transformers_config import KINDS, describe, read_json


def _style(table: tuple[Row, ...], habits: Mapping[str, Any], preprocess: Preprocess, *more: str, **rest: Any) -> Style:
    always = {"embeddings.patch_embeddings.projection.weight", "encoder.layer.0.attention.attention.query.weight"}
    return Style(
        table, always | set(more), habits, preprocess, "Apache-2.0", plain=names.plain, biases_free=True, **rest
    )


TEXT = ("text_model.", "text_projection.", "logit_scale", "logit_bias", "embeddings.position_ids")
"""Beginnings of the names that are not the image tower's."""


def _tower(table: tuple[Row, ...], preprocess: Preprocess, *more: str, **rest: Any) -> Style:
    """An image tower of a pair: what its text tower and the pair have is left out."""
    return Style(
        table,
        {"embeddings.patch_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight", *more},
        preprocess=preprocess,
        leaves=(*TEXT, *rest.pop("leaves", ())),
        plain=lambda name: name.removeprefix("vision_model."),
        **rest,
    )


_siglip = partial(_tower, names.SIGLIP, Preprocess(interpolation="bicubic"), licence="Apache-2.0")
_BEFORE, _SCALE = "encoder.layer.0.layernorm_before.weight", "encoder.layer.0.layer_scale1.lambda1"


def _dinov2(resize: str, *more: str, **rest: Any) -> Style:
    habits = {**dinov2.HABITS, "position_resize": resize}
    return _style(names.DINOV2, habits, CROP, _SCALE, *more, native=dinov2.NATIVE, **rest)


_CLASS, _DISTILLED = "embeddings.cls_token", "embeddings.distillation_token"
_REGISTERS, _DECODED = "embeddings.register_tokens", "decoder.decoder_embed.weight"


def _has_table(config: Any) -> bool:
    return config.positions == "learned" and not config.extras.rotary


def _is_rotary(config: Any) -> bool:
    return config.positions == "rotary" or bool(config.extras.rotary)


def _is_later(config: Any) -> bool:
    """Whether a ViT has a part that transformers' plain ViT lacks."""
    extras = config.extras
    return _is_rotary(config) or any((extras.layer_scale, extras.registers, extras.pre_norm, extras.projection))


_HABITS = {"activation": "gelu", "pool": "cls", "positions_on": "all", "position_resize": "bicubic", "norm_eps": 1e-12}
_OF_SIGLIP = {"activation": "gelu-tanh", "norm_eps": 1e-6, "position_resize": "bicubic"}
_OF_CLIP = {"activation": "gelu-quick", "norm_eps": 1e-5, "pool": "cls", "positions_on": "all"}
STYLES = {
    "ViT": _style(
        names.VIT,
        _HABITS,
        Preprocess(),  # ViTImageProcessor: straight to size, bilinear, 0.5
        _BEFORE,
        _CLASS,
        never={_DISTILLED, _DECODED},
        writes=lambda config: config.has_class_token and not _is_later(config),
    ),
    "DeiT": _style(
        names.VIT,
        _HABITS,
        CROP,
        _BEFORE,
        _DISTILLED,
        writes=lambda config: config.extras.registers == 1 and not config.extras.layer_scale and not _is_rotary(config),
    ),
    "DINOv2": _dinov2(
        "dinov2-size",
        never={_REGISTERS},
        writes=lambda config: config.extras.layer_scale and not config.extras.registers and not _is_rotary(config),
    ),
    "DINOv2 with registers": _dinov2(
        "bicubic-antialias",
        _REGISTERS,
        writes=lambda config: config.extras.layer_scale and _has_table(config),
    ),
    "DINOv3": Style(
        names.DINOV3,
        {"embeddings.register_tokens", "layer.0.layer_scale1.lambda1", "layer.0.attention.q_proj.weight"},
        {**dinov3.HABITS, "rotary": "dinov3"},
        dinov3.PREPROCESS,
        dinov3.LICENCE,
        plain=lambda name: re.sub(r"^(dinov3_vit\.)?(model\.(?=layer\.))?", "", name),
        biases_free=True,
        writes=lambda config: config.positions == "rotary" and (config.extras.rotary or "dinov3") == "dinov3",
    ),
    "Pixio": Style(
        names.PIXIO,
        {"encoder.layer.0.norm1.weight", "encoder.layer.0.intermediate.dense.weight", _CLASS},
        {**_HABITS, "norm_eps": 1e-6, "position_resize": "dinov2-size"},
        replace(CROP, crop_fraction=1.0),
        dinov3.LICENCE,
        plain=names.plain,
        biases_free=True,
        never={_SCALE, _REGISTERS},
        writes=lambda config: (
            config.extras.registers > 1 and config.positioned_prefix == config.prefix and _has_table(config)
        ),
    ),
    "SigLIP": _siglip(
        "head.probe",
        habits=_OF_SIGLIP,
        never={"classifier.weight"},
        writes=lambda config: config.pool == "map" and not config.prefix and not config.classes,
    ),
    "SigLIP classifier": _siglip(
        "classifier.weight",
        habits={**_OF_SIGLIP, "pool": "mean"},
        leaves=("head.",),
        writes=lambda config: config.pool == "mean" and not config.prefix and config.extras.activation == "gelu-tanh",
    ),
    "CLIP": _tower(
        names.CLIP_TOWER,
        replace(CROP, crop_fraction=1.0, mean=CLIP[0], std=CLIP[1]),
        "pre_layrnorm.weight",
        habits={**_OF_CLIP, "position_resize": "bicubic", "final_norm": "pooled"},
        licence="MIT (as OpenAI's; other CLIPs have other licences)",
        writes=lambda config: (
            config.extras.pre_norm and config.pool == "cls" and _has_table(config) and not config.classes
        ),
    ),
    "I-JEPA": _style(
        names.VIT,
        {**_HABITS, "pool": "mean"},
        Preprocess(),
        _BEFORE,
        never={_CLASS},
        writes=lambda config: config.pool == "mean" and not _is_later(config),
    ),
    "ViTMAE": Style(
        names.MAE,
        {"decoder.mask_token", "decoder.decoder_embed.weight", "vit.embeddings.cls_token"},
        {"norm_eps": 1e-12},
        CROP,
        "CC-BY-NC-4.0 (facebookresearch/mae)",
        shapes="mae",
        # transformers 5 writes the layers of the decoder under this odd name, and cannot mean another
        plain=lambda name: name.replace("decoder.decoder_encoder.layer.", "decoder.decoder_layers."),
    ),
    "BiT": Style(
        names.BIT,
        {"embedder.convolution.weight", "encoder.stages.0.layers.0.conv1.weight"},
        {"standardise_eps": 1e-8},
        licence="Apache-2.0",
        shapes="resnet",
        plain=lambda name: name.removeprefix("bit."),
    ),
}
_HEADS = ("classifier", "cls_classifier", "distillation_classifier", "visual_projection")
_TOWERS_BARE = ("SigLIP", "SigLIP classifier", "CLIP")


def add_prefix(style: str, tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
    """A model with a head has its body under the name of its type, an image tower always."""
    of_type = f"{KINDS[style].type}." if config.classes and style in KINDS else ""
    prefix = "vision_model." if style in _TOWERS_BARE else of_type
    return {name if name.startswith(_HEADS) else prefix + name: tensor for name, tensor in tensors.items()}


ORIGIN = Origin("transformers", STYLES, suffixes=("",), read_json=read_json, describe=describe, finish=add_prefix)
ORIGINS.register(ORIGIN.name, ORIGIN)
