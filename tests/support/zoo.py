"""Every row of the zoo, made narrow, and every option: `VITS` and the other `FAMILIES`."""

import dataclasses

import torch

from vitrail.models import zoo
from vitrail.models.hybrid import HybridConfig
from vitrail.models.maxvit import MaxViTConfig
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import ModelConfig

TINY = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48, "classes": 5}


VARIANTS: dict[str, dict] = {
    "mean": {"pool": "mean"},
    "mean with class token, norm after": {"pool": "mean", "class_token": True, "final_norm": "pooled"},
    "map": {"pool": "map"},
    "class token and mean": {"pool": "cls-mean"},
    "pre_logits": {"pre_logits": 24},
    "no positions": {"positions": "none"},
    "2-D": {"positions": "learned-2d"},
    "sincos": {"positions": "sincos", "pool": "mean"},
    "sincos-mae": {"positions": "sincos-mae"},
    "relative": {"positions": "relative"},
    "2-D at every layer": {"positions": "learned-2d", "positions_at": "layers", "pool": "mean"},
    "1-D at every layer": {"positions_at": "layers"},
    "shared by the layers": {"positions_at": "shared"},
    "positions on patches": {"positions_on": "patches"},
    "dinov2": {
        "registers": 4, "positions_on": "class", "position_resize": "dinov2", "layer_scale": 0.1, "activation": "swiglu"
    },
    "qk norm": {"qk_norm": True, "activation": "gelu-tanh", "position_resize": "bicubic-antialias"},
    "no qkv biases": {"qkv_bias": False},
    "rotary": {"positions": "rotary"},
    "dinov3": {
        "positions": "rotary", "rotary": "dinov3-rounded", "registers": 4, "layer_scale": 0.1, "activation": "swiglu"
    },
    "clip": {"pre_norm": True, "activation": "gelu-quick", "projection": 12, "final_norm": "pooled"},
    "eva02": {"rotary": "eva02", "rotary_grid": 16, "inner_norm": "both", "activation": "swiglu", "pool": "mean"},
    "pe": {
        "rotary": "pe", "rotary_grid": 3, "pre_norm": True, "pool": "map", "class_token": True, "pool_prefix": True,
        "pool_heads": 4, "projection": 12, "normalise": True
    },
    "no final norm": {"final_norm": "none", "rotary": "rope-vit"},
    "nine channels": {"channels": 9},
    "oblong patch": {"patch": (16, 8), "image": (32, 48)},
}  # fmt: skip


def narrow(config: ViTConfig, **changes) -> ViTConfig:
    side = 2 * config.patch[0]
    return zoo.change(config, **{**TINY, "image": (side, side), **changes})


VITS = {name: narrow(zoo.config(name)) for name in zoo.list_models("vit-*")}
VITS |= {name: narrow(zoo.config("vit-b/16"), **changes) for name, changes in VARIANTS.items()}

VIT = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48}


def narrow_family(config: ModelConfig, **changes) -> ModelConfig:
    """The row's stages and options at a width a test can bear."""
    if isinstance(config, MaxViTConfig):
        tiny = {"depths": (1, 2, 1, 1), "widths": (8, 16, 16, 24), "stem": (8, 8), "head_width": 8, "pre_logits": 24}
        return dataclasses.replace(config, **{**tiny, "image": (64, 64), "classes": 5, **changes})
    depths = tuple(min(depth, 2) for depth in config.depths)
    tiny = {"depths": depths, "widths": (128, 128, 128, 256)[: len(depths)], "root_width": 32, "classes": 5}
    if isinstance(config, HybridConfig):
        tiny |= VIT
    return zoo.change(config, **{**tiny, "image": (64, 64), **changes})


ROWS = [name for name in zoo.list_models() if not name.startswith("vit-")]
FAMILIES = {name: narrow_family(zoo.config(name)) for name in ROWS}
FAMILIES |= {
    "v1": narrow_family(
        zoo.config("r50x1", order="post", padding="same", standardise="deviation", standardise_eps=1e-5)
    ),
    "bit_paper": narrow_family(zoo.config("r50x1", padding="symmetric", channels=9)),
    "hybrid mean": narrow_family(zoo.config("r50+vit-b/32", pool="mean", pre_logits=24, channels=1)),
    "padded windows": narrow_family(zoo.config("maxvit-t"), window=(3, 5)),
    "resized biases": narrow_family(zoo.config("maxvit-t"), bias_window=(3, 2)),
}


def distinct(configs: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
    """Rows that differ in width and depth alone are one narrow model: the first name stands for it."""
    return {
        name: config for name, config in configs.items() if name == next(n for n, c in configs.items() if c == config)
    }


def pictures(model, count: int = 3, size: tuple[int, int] | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(count, model.config.channels, *(size or model.config.image), generator=generator)


def lively(config: ModelConfig) -> torch.nn.Module:
    """The config's model with a random head, and v1's last scales off their zeros: outputs that say something."""
    generator = torch.Generator().manual_seed(1)
    built = zoo.build(config, generator=generator)
    for name, parameter in built.named_parameters():
        if name.endswith(("head.weight", "norm3.weight")):
            parameter.data.normal_(generator=generator)
    return built.eval()
