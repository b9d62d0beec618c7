"""facebookresearch/dinov2's backbones (`dinov2_*_pretrain.pth`), with registers or without, MLP or SwiGLU.

Its code trains in chunks of blocks, whose names then have the chunk's number too: `blocks.1.7.norm1` is block 7.

A file does not say its heads. Without registers its code resizes positions by a factor (n + 0.1) / m, with them to the
exact size and antialiased.
"""

import re

from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.origins.origin import Origin, Style, pair
from vitrail.weights.origins.table import Row

_PLAIN, _GATED = ("gated", False), ("gated", True)

TABLE = (
    *pair("patch_embed", "patch_embed.proj"),
    Row("cls_token", ("cls_token",)),
    Row("mask_token", ("mask_token",)),
    Row("registers", ("register_tokens",)),
    Row("positions.table", ("pos_embed",)),
    *(
        row
        for part in ("norm1", "attn.qkv", "attn.proj", "norm2")
        for row in pair(f"blocks.{{i}}.{part}", f"blocks.{{i}}.{part}")
    ),
    *(
        row
        for part in ("fc1", "fc2")
        for row in pair(f"blocks.{{i}}.mlp.{part}", f"blocks.{{i}}.mlp.{part}", when=_PLAIN)
    ),
    *pair("blocks.{i}.mlp.fc1", "blocks.{i}.mlp.w12", when=_GATED),
    *pair("blocks.{i}.mlp.fc2", "blocks.{i}.mlp.w3", when=_GATED),
    Row("blocks.{i}.ls1.gamma", ("blocks.{i}.ls1.gamma",)),
    Row("blocks.{i}.ls2.gamma", ("blocks.{i}.ls2.gamma",)),
    *pair("norm", "norm"),
)
_SIGNATURE = frozenset({"mask_token", "patch_embed.proj.weight", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight"})
_HABITS = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls", "positions_on": "class"}
_CROP = Preprocess(resize="crop", interpolation="bicubic", crop_fraction=0.875, mean=IMAGENET[0], std=IMAGENET[1])
_NATIVE = (518, 518)


def _style(resize: str, more: set[str], never: set[str]) -> Style:
    habits = {**_HABITS, "position_resize": resize}
    return Style(
        TABLE, _SIGNATURE | more, habits, _CROP, "Apache-2.0", frozenset(never), native=_NATIVE, biases_free=True
    )


ORIGIN = Origin(
    "dinov2",
    {
        "plain": _style("dinov2", set(), {"register_tokens", "decoder_embed.weight"}),
        "registers": _style("bicubic-antialias", {"register_tokens"}, {"decoder_embed.weight"}),
    },
    plain=lambda name: re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name),
)
LIBRARY = LIBRARIES.register(
    "dinov2",
    Library(suffixes=(".safetensors",), writers={"vit": ORIGIN.write}, tellable=("heads",), positions_on="class"),
)
