"""facebookresearch/dinov2's backbones (`dinov2_*_pretrain.pth`), with registers or without, MLP or SwiGLU.

Its code trains in chunks of blocks, whose names then have the chunk's number too: `blocks.1.7.norm1` is block 7.

A file does not say its heads. Without registers its code resizes positions by a factor (n + 0.1) / m, with them to the
exact size and antialiased.
"""

import re

from vitrail.weights.name_tables import pairs, tensors
from vitrail.weights.origin import CROP, ORIGINS, Checkpoint, Origin, Style

PLAIN, GATED = ("gated", False), ("gated", True)
_BLOCK = "blocks.{i}."
# also dinov3.py's
BODY = (
    *pairs("", "", {"patch_embed": "patch_embed.proj", "norm": "norm"}),
    *tensors("", "", ["cls_token", "mask_token"]),
    *pairs(_BLOCK, _BLOCK, ["norm{n}", "attn.qkv", "attn.proj"]),
    *pairs(_BLOCK, _BLOCK, ["mlp.fc{n}"], when=PLAIN),
    *tensors(_BLOCK, _BLOCK, ["ls{n}.gamma"]),
)
TABLE = (
    *BODY,
    *tensors("", "", {"registers": "register_tokens", "positions.table": "pos_embed"}),
    *pairs(_BLOCK, _BLOCK, {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}, when=GATED),
)


def _plain(name: str) -> str:
    """Without the chunk of a block; TIPSv2 is such a model too, and says "vision_encoder" and c_fc."""
    name = re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name.removeprefix("vision_encoder."))
    return name.replace(".mlp.c_fc.", ".mlp.fc1.").replace(".mlp.c_proj.", ".mlp.fc2.")


HABITS = {"activation": "gelu", "norm_eps": 1e-6, "pool": "cls", "positions_on": "class"}
NATIVE = (518, 518)


def _style(resize: str, more: set[str], never: set[str]) -> Style:
    always = {"mask_token", "patch_embed.proj.weight", "blocks.0.ls1.gamma", "blocks.0.attn.qkv.weight"}
    return Style(
        TABLE,
        always | more,
        {**HABITS, "position_resize": resize},
        CROP,
        "Apache-2.0",
        never=never | {"decoder_embed.weight", "storage_tokens"},
        native=NATIVE,
        biases_free=True,
        plain=_plain,
        leaves=("text_encoder.", "temperature"),
    )


ORIGIN = Origin(
    "dinov2",
    {
        "plain": _style("dinov2", set(), {"register_tokens"}),
        "registers": _style("bicubic-antialias", {"register_tokens"}, set()),
    },
    suffixes=(".safetensors",),
    tellable=("heads",),
    positions_on="class",
    published=tuple(
        Checkpoint(f"dinov2_vit{size}14{more}_pretrain.pth", f"vit-{size}/14", "LVD-142M", "Apache-2.0", image=518)
        for more in ("", "_reg4")
        for size in "sbl"
    ),
)
ORIGINS.register(ORIGIN.name, ORIGIN)
