"""Every model that has a name: one literal table of configs, with the paper and the exact parameter count.

    zoo.build("vit-b/16", classes=10, image=384)    zoo.list_models("vit-*/16")    zoo.config("vit-s/8", pool="mean")

A ViT may be named with any size of SIZES and any patch, also where the table has no row for it. `timm:NAME` is a model
of timm.
"""

import dataclasses
import fnmatch
import os
import re
from dataclasses import dataclass
from typing import Any, TypeVar, get_type_hints

import torch

from vitrail.arguments import check_values
from vitrail.errors import ConfigError, MemoryRanOut, suggest
from vitrail.models.backbone import FAMILIES, Backbone, ModelConfig
from vitrail.models.deit import DeiT
from vitrail.models.extras import NAMES, settings
from vitrail.models.hybrid import Hybrid, HybridConfig
from vitrail.models.mae import MAE
from vitrail.models.maxvit import MaxViT, MaxViTConfig
from vitrail.models.resnet import ResNet, ResNetConfig
from vitrail.models.timm_model import PREFIX, TimmModel, config_of
from vitrail.models.vit import ViT, ViTConfig

BUILT_IN = (ViT, ResNet, Hybrid, MaxViT, DeiT, MAE, TimmModel)
"""The families of this package; each registers itself in `FAMILIES`, where plug-ins add theirs."""

C = TypeVar("C", bound=ModelConfig)

PAPER = "arXiv 2010.11929, Table 1"
AUGREG = "arXiv 2106.10270, Table 2"
SCALING = "arXiv 2106.04560, Table 2"
SO400M = "arXiv 2305.13035"
PLAIN = "big_vision, models/vit.py"
BIT = "arXiv 1912.11370; 2010.11929, Table 6"
TABLE_6 = "arXiv 2010.11929, Table 6"

# width, depth, mlp_width, heads, source
SIZES: dict[str, tuple[int, int, int, int, str]] = {
    "mu": (32, 1, 128, 2, PLAIN),
    "ti": (192, 12, 768, 3, AUGREG),
    "s": (384, 12, 1536, 6, AUGREG),
    "m": (512, 12, 2048, 8, PLAIN),
    "b": (768, 12, 3072, 12, PAPER),
    "l": (1024, 24, 4096, 16, PAPER),
    "so400m": (1152, 27, 4304, 16, SO400M),
    "h": (1280, 32, 5120, 16, PAPER),
    "g": (1408, 40, 6144, 16, SCALING),
    "g-opt": (1536, 40, 6144, 16, PLAIN),
    "G": (1664, 48, 8192, 16, SCALING),
    "G-opt": (1536, 48, 8192, 16, PLAIN),
    "e": (1792, 56, 15360, 16, "arXiv 2209.06794"),
}


def _vit(size: str, patch: int) -> ViTConfig:
    # an image of about 224 pixels that the patch divides
    side = 224 if 224 % patch == 0 else max(1, round(224 / patch)) * patch
    return ViTConfig(**_sizes(size), patch=(patch, patch), image=(side, side))


def _sizes(name: str) -> dict[str, Any]:
    return dict(zip(("width", "depth", "mlp_width", "heads"), SIZES[name], strict=False))


@dataclass(frozen=True)
class Entry:
    """A row: what to build, who published it, and how many parameters that makes, to the unit."""

    config: ModelConfig
    paper: str
    parameters: int


def _row(size: str, patch: int, parameters: int) -> Entry:
    return Entry(_vit(size, patch), SIZES[size][-1], parameters)


def _resnet(depths: tuple[int, ...], factor: int, parameters: int) -> Entry:
    widths = tuple(256 * factor * 2**stage for stage in range(len(depths)))
    return Entry(ResNetConfig(depths=depths, widths=widths, root_width=64 * factor), BIT, parameters)


def _hybrid(depths: tuple[int, ...], size: str, patch: int, paper: str, parameters: int) -> Entry:
    widths = tuple(256 * 2**stage for stage in range(len(depths)))
    config = HybridConfig(depths=depths, widths=widths, patch=(patch, patch), **_sizes(size))
    return Entry(config, paper, parameters)


def _maxvit(stem: int, depths: tuple[int, ...], width: int, parameters: int) -> Entry:
    widths = tuple(width * 2**stage for stage in range(4))
    config = MaxViTConfig(depths=depths, widths=widths, stem=(stem, stem), pre_logits=widths[-1])
    return Entry(config, "arXiv 2204.01697, Table 1", parameters)


# At 224 pixels, 1000 classes; ViTs with class token, without pre_logits
ZOO: dict[str, Entry] = {
    "vit-mu/16": _row("mu", 16, 76_712),
    "vit-ti/16": _row("ti", 16, 5_717_416),
    "vit-s/8": _row("s", 8, 22_055_272),
    "vit-s/14": _row("s", 14, 22_004_584),
    "vit-s/16": _row("s", 16, 22_050_664),
    "vit-s/32": _row("s", 32, 22_878_952),
    "vit-m/16": _row("m", 16, 38_837_736),
    "vit-b/8": _row("b", 8, 86_576_872),
    "vit-b/14": _row("b", 14, 86_475_496),
    "vit-b/16": _row("b", 16, 86_567_656),
    "vit-b/32": _row("b", 32, 88_224_232),
    "vit-l/14": _row("l", 14, 304_203_752),
    "vit-l/16": _row("l", 16, 304_326_632),
    "vit-l/32": _row("l", 32, 306_535_400),
    "vit-so400m/14": _row("so400m", 14, 413_597_656),
    "vit-h/14": _row("h", 14, 632_045_800),
    "vit-g/14": _row("g", 14, 1_012_611_432),
    "vit-G/14": _row("G", 14, 1_844_440_680),
    "r50x1": _resnet((3, 4, 6, 3), 1, 25_549_352),
    "r50x2": _resnet((3, 4, 6, 3), 2, 97_988_712),
    "r50x3": _resnet((3, 4, 6, 3), 3, 217_319_080),
    "r101x1": _resnet((3, 4, 23, 3), 1, 44_541_480),
    "r101x3": _resnet((3, 4, 23, 3), 3, 387_934_888),
    "r152x1": _resnet((3, 8, 36, 3), 1, 60_185_128),
    "r152x2": _resnet((3, 8, 36, 3), 2, 236_335_208),
    "r152x4": _resnet((3, 8, 36, 3), 4, 936_533_224),
    "r200x3": _resnet((3, 24, 36, 3), 3, 568_633_000),
    # the /32 of "r+vit-ti/16" is in its code: the root alone divides by 4, its patches by 8
    "r+vit-ti/16": _hybrid((), "ti", 8, AUGREG, 6_337_704),
    "r26+vit-s/32": _hybrid((2, 2, 2, 2), "s", 1, AUGREG, 36_431_912),
    "r26+vit-b/32": _hybrid((2, 2, 2, 2), "b", 1, AUGREG, 101_383_976),
    "r50+vit-b/32": _hybrid((3, 4, 6, 3), "b", 1, TABLE_6, 110_945_832),
    "r50+vit-b/16": _hybrid((3, 4, 9), "b", 1, TABLE_6, 98_659_112),
    "r50+vit-l/32": _hybrid((3, 4, 6, 3), "l", 1, TABLE_6, 328_994_856),
    "r50+vit-l/16": _hybrid((3, 4, 9), "l", 1, TABLE_6, 316_483_624),
    "maxvit-t": _maxvit(64, (2, 2, 5, 2), 64, 30_916_528),
    "maxvit-s": _maxvit(64, (2, 2, 5, 2), 96, 68_927_956),
    "maxvit-b": _maxvit(64, (2, 6, 14, 2), 96, 119_467_708),
    "maxvit-l": _maxvit(128, (2, 6, 14, 2), 128, 211_785_560),
    "maxvit-xl": _maxvit(192, (2, 6, 14, 2), 192, 474_951_952),
}


def config(name: str, **changes: Any) -> ModelConfig:
    """The config called `name`, with `changes`; `image` and `patch` may be one number. Unknown names: ConfigError."""
    return change(_named(name), **changes)


def build(
    model: str | ModelConfig, *, generator: torch.Generator | None = None, seed: int = 0, **changes: Any
) -> Backbone:
    """A newly initialised model, on the CPU in float32, every bit given by `generator` (or `seed`).

        vitrail.build("vit-b/16", classes=10, image=(384, 384), pool="mean", qk_norm=True)

    `model` is a name (`vitrail.list_models()` lists them) or a config; `changes` are fields of its config. Raises ConfigError for
    a name or a field that is not there, and for values that do not go together.
    """
    if not isinstance(model, str | ModelConfig):
        raise ConfigError(f"a model {model!r}", allowed="a name, such as 'vit-b/16', or a config")
    built = skeleton(change(_named(model) if isinstance(model, str) else model, **changes))
    _refuse_too_large(built)
    built.to_empty(device="cpu")
    built.initialise(generator or torch.Generator().manual_seed(seed))
    return built


def _refuse_too_large(model: Backbone) -> None:
    """MemoryRanOut before a model is made that the whole machine cannot hold: the system may promise it, and fail later."""
    size = sum(tensor.nbytes for tensor in model.state_dict().values())
    if hasattr(os, "sysconf") and size > os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        raise MemoryRanOut(
            f"a model of {size / 1e9:,.0f} GB does not fit into this machine", next_step="take a smaller width or depth"
        )


def skeleton(config: ModelConfig) -> Backbone:
    """The model without memory, on the meta device: to count it, or to load weights into it."""
    with torch.device("meta"):
        return FAMILIES[config.family](config)  # pyrefly: ignore[bad-instantiation]


def list_models(pattern: str = "*") -> tuple[str, ...]:
    """Names of the table that match a shell pattern, in the order of the table."""
    return tuple(name for name in ZOO if fnmatch.fnmatchcase(name, pattern))


def change(config: C, **changes: Any) -> C:
    """The config with other values. Names of its extras may be given like its own fields; ConfigError for any other."""
    known = settings(config).keys()
    for name in changes:
        if name not in known and not (name == "extras" and hasattr(config, name)):
            hint = suggest(name, known) or f"known: {', '.join(known)}"
            hint = "vitrail.load(name or path) gives a trained model" if name in ("pretrained", "weights") else hint
            raise ConfigError(f"a {config.family} has no {name!r}", next_step=hint)
    for name in ("image", "patch"):
        if isinstance(changes.get(name), int):
            changes[name] = (changes[name],) * 2
    extras: Any = getattr(config, "extras", None)
    if extras is not None:
        given = changes.get("extras", extras)
        if not isinstance(given, type(extras)):
            raise ConfigError(f"extras = {given!r}", allowed="Extras(…); or its settings by name, such as registers=4")
        inner = {name: changes.pop(name) for name in NAMES & changes.keys()}
        check_values(inner, get_type_hints(type(extras)))
        changes["extras"] = dataclasses.replace(given, **inner)
    check_values(changes, get_type_hints(type(config)))
    return dataclasses.replace(config, **changes)


def _named(name: str) -> ModelConfig:
    if name in ZOO:
        return ZOO[name].config
    if name.startswith(PREFIX):
        return config_of(name.removeprefix(PREFIX))
    match = re.fullmatch(r"vit-(.+)/([1-9]\d{0,3})", name)
    if match and match[1] in SIZES:
        return _vit(match[1], int(match[2]))
    raise ConfigError(
        f"no model is called {name!r}",
        allowed=f"{', '.join(ZOO)}; or vit-SIZE/PATCH with a size of {', '.join(SIZES)}; or timm:NAME",
        next_step=_hint(name) or "`vitrail models` lists them",
    )


_ELSEWHERE = re.compile(r"(?:vit|deit3?)[_-](ti|s|b|l|h)[a-z]*[_-](?:patch)?(\d+)")


def _hint(name: str) -> str:
    """Our name for a model that timm, torchvision or transformers call otherwise, or the nearest name."""
    if found := _ELSEWHERE.search(name.lower()):
        timm = f", or '{PREFIX}{name}'" if "_patch" in name else ""
        return f"did you mean 'vit-{found[1]}/{found[2]}'{timm}?"
    return suggest(name.lower(), ZOO)
