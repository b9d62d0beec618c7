"""timm's config.json: what the model was made with, how its images were prepared; and what only a model's name says.

Two architectures can have the same names and shapes and compute something else. Their files do not say which they are,
nor does config.json but for the name, which is therefore read.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vitrail.errors import WeightsError
from vitrail.weights.published import imagenet_classes

POOLED = ("coatnet_0_rw", "coatnet_nano_rw", "test_coatnet")
"""CoAtNets whose MBConv halves the map by pooling."""
TANH = re.compile(r"vit_(base_patch32|so400m_patch16|giantopt_patch16)_siglip|vit_large_patch16_siglip(_gap)?_512")
"""ViTs with tanh GELU: SigLIP's of the second generation."""
HEADS = {"vit_giantopt": 16, "vit_base_patch16_gap": 16, "test_vit": 2}
"""By the beginning of a name: the heads that are not those of the width."""
OTHERS = {
    "_rpn_": "norms behind its branches",
    "_rope_": "rotary positions",
    "_dinov3": "rotary positions",
    "eva02_": "rotary positions",
    "test_vit3": "a pooling of all tokens",
}
"""Words in the names of ViTs that are no models here though tensors may fit, and what those have."""
ACTIVATIONS = {"gelu": "gelu", "gelu_tanh": "gelu-tanh", "silu": "swiglu", "swish": "swiglu"}
"""The last two stand in gated MLPs alone, which the shapes of a file must then show."""


def by_name(architecture: str) -> dict[str, Any]:
    """Fields of our config that an architecture's name alone says; WeightsError for one that is no model here."""
    for word, what in OTHERS.items():
        if word in architecture and architecture.startswith(("vit_", "eva", "test_vit")):
            raise WeightsError(f"timm's {architecture} has {what}, which no model here has", next_step="use timm")
    if architecture.startswith(POOLED):
        return {"dialect": {"stride": "pool"}}
    found: dict[str, Any] = {"activation": "gelu-tanh"} if TANH.match(architecture) else {}
    heads = next((number for start, number in HEADS.items() if architecture.startswith(start)), None)
    return found | ({"heads": heads} if heads else {})


def fields(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Fields of our config. Of other families than plain ViTs the tensors and the name say all."""
    architecture = str(data.get("architecture", ""))
    named = by_name(architecture)
    if not architecture.startswith(("vit_", "deit", "flexivit", "eva_", "test_vit")):
        return named
    about, made = data.get("pretrained_cfg") or {}, data.get("model_args") or {}
    found = {"heads": "num_heads", "depth": "depth", "width": "embed_dim"}
    config = named | {ours: made[theirs] for ours, theirs in found.items() if theirs in made}
    size = about.get("input_size")
    if "img_size" in made:
        side = made["img_size"]
        config["image"] = (side, side) if isinstance(side, int) else (side[0], side[1])
    elif size and about.get("fixed_input_size", False):
        config["image"] = (size[1], size[2])
    config |= _made(made, where)
    pool = {"avg": "mean", "token": "cls", "map": "map"}.get(data.get("global_pool", ""))
    return config | ({"pool": pool} if pool else {})


def _made(made: Mapping[str, Any], where: str) -> dict[str, Any]:
    """What arguments of timm's constructor change without a trace; WeightsError for what no model here does."""
    odd = [f"{name} {made[name]!r}" for name in ("block_fn", "attn_layer", "pool_include_prefix") if made.get(name)]
    if (act := made.get("act_layer")) and act not in ACTIVATIONS:
        odd.append(f"act_layer {act!r}")
    if odd:
        raise WeightsError(f"{where}: made with {', '.join(odd)}, which no model here has", next_step="use timm")
    config = {"activation": ACTIVATIONS[act]} if act else {}
    return config | ({"positions": "none"} if made.get("pos_embed", "learn") in ("none", "") else {})


def preprocess(about: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of our Preprocess from their `pretrained_cfg`."""
    found: dict[str, Any] = {}
    if "mean" in about:
        found |= {"mean": tuple(about["mean"]), "std": tuple(about["std"])}
    if about.get("interpolation") in ("nearest", "bilinear", "bicubic"):
        found["interpolation"] = about["interpolation"]
    if "input_size" in about:
        found["size"] = tuple(about["input_size"][1:])
    if "crop_pct" in about and math.isfinite(about["crop_pct"]):
        squash = about.get("crop_mode") == "squash"
        found |= {"crop_fraction": min(1.0, about["crop_pct"]), "resize": "squash" if squash else "crop"}
    return found


def classes(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the outputs, described where they are; ImageNet's where the tag says that it was fine-tuned on that."""
    about = data.get("pretrained_cfg") or {}
    names = data.get("label_names") or about.get("label_names") or ()
    listed: Sequence[Any] = [names[key] for key in sorted(names, key=int)] if isinstance(names, Mapping) else names
    if listed:
        described = data.get("label_descriptions") or about.get("label_descriptions") or {}
        return tuple(str(described.get(name, name)) for name in listed)
    outputs = data.get("num_classes", about.get("num_classes"))
    tuned = re.search(r"(^|_)in1k$", str(about.get("tag", "")))
    return imagenet_classes() if tuned and outputs == 1000 else ()
