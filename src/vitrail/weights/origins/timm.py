"""Plain ViTs under timm's names: timm's own, and those of facebookresearch's DeiT, DeiT III and MAE (its fine-tuned
models, and its encoders without decoder), which lie under "model" in their files.

A file tells neither heads, nor GELU's kind, nor epsilon, nor how positions are resized: DeiT and MAE differ from timm.
"""

import dataclasses
import re

from vitrail.images.preprocess import IMAGENET, INCEPTION, Preprocess
from vitrail.weights.origins import timm_config
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.origin import Origin, Style, pair
from vitrail.weights.origins.table import Row

_DISTILLED = ("family", "deit")

TABLE = (
    *pair("patch_embed", "patch_embed.proj"),
    Row("cls_token", ("cls_token",)),
    Row("registers", ("reg_token",), when=("family", "vit")),
    Row("registers", ("dist_token",), when=_DISTILLED),
    Row("positions.table", ("pos_embed",)),
    *pair("norm", "norm", when=("final_norm", "tokens")),
    *pair("norm", "fc_norm", when=("final_norm", "pooled")),
    *(
        row
        for part in ("norm1", "attn.qkv", "attn.q_norm", "attn.k_norm", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
        for row in pair(f"blocks.{{i}}.{part}", f"blocks.{{i}}.{part}")
    ),
    Row("blocks.{i}.ls1.gamma", ("blocks.{i}.ls1.gamma",)),
    Row("blocks.{i}.ls2.gamma", ("blocks.{i}.ls2.gamma",)),
    Row("attention_pool.probe", ("attn_pool.latent",)),
    *(
        row
        for part in ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")
        for row in pair(f"attention_pool.{part}", f"attn_pool.{part}")
    ),
    *pair("pre_logits", "pre_logits.fc"),
    *pair("head", "head", when=("family", "vit")),
    *pair("head.label", "head", when=_DISTILLED),
    *pair("head.teacher", "head_dist", when=_DISTILLED),
)
DEIT_3 = tuple(
    dataclasses.replace(row, theirs=tuple(re.sub(r"ls(\d).gamma", r"gamma_\1", name) for name in row.theirs))
    for row in TABLE
)

_SIGNATURE = frozenset({"patch_embed.proj.weight", "blocks.0.norm1.weight", "blocks.0.attn.qkv.weight"})
_NEVER = frozenset({"mask_token", "register_tokens", "decoder_embed.weight"}) | {
    f"patch_embed.backbone.{stem}conv.weight" for stem in ("stem.", "")
}
_HABITS = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls"}
_TIMM = {**_HABITS, "position_resize": "bicubic-antialias"}
_FACEBOOK = {**_HABITS, "position_resize": "bicubic"}
_CROP = Preprocess(resize="crop", interpolation="bicubic", crop_fraction=0.875, mean=IMAGENET[0], std=IMAGENET[1])
_AUGREG = dataclasses.replace(_CROP, crop_fraction=0.9, mean=INCEPTION[0], std=INCEPTION[1])

ORIGIN = Origin(
    "timm",
    {
        "timm": Style(
            TABLE, _SIGNATURE, _TIMM, _AUGREG, never=_NEVER | {"blocks.0.gamma_1"}, biases_free=True, wrapped=False
        ),
        "DeiT and MAE": Style(
            TABLE, _SIGNATURE, _FACEBOOK, _CROP, never=_NEVER | {"blocks.0.gamma_1"}, biases_free=True, wrapped=True
        ),
        "DeiT III": Style(
            DEIT_3,
            _SIGNATURE | {"blocks.0.gamma_1", "blocks.0.gamma_2"},
            _FACEBOOK,
            dataclasses.replace(_CROP, crop_fraction=1.0),
            "Apache-2.0",
            never=_NEVER,
            biases_free=True,
            wrapped=True,
        ),
    },
)
LIBRARY = LIBRARIES.register(
    "timm",
    Library(
        suffixes=("", ".safetensors"),
        writers={"vit": ORIGIN.write, "deit": ORIGIN.write},
        describe=timm_config.describe,
        tellable=("heads", "activation", "norm_eps", "pool", "positions"),
        untold={"norm_eps": 1e-6},
        drops=("mask_token",),
    ),
)
