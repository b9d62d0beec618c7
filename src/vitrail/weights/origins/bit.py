"""ResNets with GroupNorm: BiT's published .npz (big_transfer), big_vision's v2 and v1, timm's and transformers' BiT.

A file tells depths and widths. Padding and epsilons it does not: there each origin's code speaks (`Style.habits`).
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.resnet import ResNetConfig
from vitrail.models.zoo import ModelConfig, skeleton
from vitrail.weights.origins import big_vision, google, timm, transformers, transformers_config
from vitrail.weights.origins.table import Foreign, Row, to_ours, to_theirs

NAME = "bit"
LICENCE = "Apache-2.0"


@dataclass(frozen=True)
class Style:
    """One origin's names and habits.

    In its table `{b}` and `{u}` count blocks and units from 0, `{B}` and `{U}` from 1; `{n}` (or `{abc}`) is 1 to 3.
    """

    table: tuple[Row, ...]
    habits: Mapping[str, Any]

    @property
    def signature(self) -> set[str]:
        """Names every file of this style has: those of the root and of the first unit's convolutions."""
        return {row.theirs[0] for row in written(self.table, (1,)) if re.match(r"root\.|blocks.*conv", row.ours)}


def written(table: Sequence[Row], depths: Sequence[int]) -> list[Row]:
    """The table with a row for every block, unit and convolution of such a ResNet."""
    rows: dict[str, Row] = {}
    for b, depth in enumerate(depths or (1,)):
        for u, n, row in product(range(depth), (1, 2, 3), table):
            at = {"b": b, "u": u, "B": b + 1, "U": u + 1, "n": n, "abc": "abc"[n - 1]}
            ours = row.ours.format(**at)
            rows[ours] = Row(ours, tuple(name.format(**at) for name in row.theirs), row.layout)
    return list(rows.values())


def present(rows: Sequence[Row], config: ModelConfig) -> list[Row]:
    """The rows whose tensors a model of this config has."""
    names = skeleton(config).state_dict().keys()
    return [row for row in rows if row.ours in names]


def _norm(ours: str, theirs: str, words: tuple[str, str], layout: str = "same") -> Iterator[Row]:
    for word, name in zip(("weight", "bias"), words, strict=True):
        yield Row(f"{ours}.{word}", (theirs + name,), layout)


_UNIT = "blocks.{b}.{u}."
_TF, _BV, _V1, _TIMM = (
    "resnet/block{B}/unit{U:02}/",
    "block{B}/unit{U:02}/",
    "block{B}/unit{U}/",
    "stages.{b}.blocks.{u}.",
)
_HF = "bit.encoder.stages.{b}.layers.{u}."
_FLAX, _TORCH = ("/scale", "/bias"), (".weight", ".bias")

BIG_TRANSFER = (
    Row("root.weight", ("resnet/root_block/standardized_conv2d/kernel",), "conv"),
    Row(_UNIT + "conv{n}.weight", (_TF + "{abc}/standardized_conv2d/kernel",), "conv"),
    *_norm(_UNIT + "norm{n}", _TF + "{abc}/group_norm", ("/gamma", "/beta")),
    Row(_UNIT + "shortcut.weight", (_TF + "a/proj/standardized_conv2d/kernel",), "conv"),
    *_norm("norm", "resnet/group_norm", ("/gamma", "/beta")),
    Row("head.weight", ("resnet/head/conv2d/kernel",), "pixel"),
    Row("head.bias", ("resnet/head/conv2d/bias",)),
)
BIG_VISION = (
    Row("root.weight", ("root_block/conv_root/kernel",), "conv"),
    Row(_UNIT + "conv{n}.weight", (_BV + "conv{n}/kernel",), "conv"),
    *_norm(_UNIT + "norm{n}", _BV + "gn{n}", _FLAX, "spread"),
    Row(_UNIT + "shortcut.weight", (_BV + "conv_proj/kernel",), "conv"),
    *_norm("norm", "norm-pre-head", _FLAX, "spread"),
    Row("head.weight", ("head/kernel",), "dense"),
    Row("head.bias", ("head/bias",)),
)
BIG_VISION_V1 = (
    Row("root.weight", ("conv_root/kernel",), "conv"),
    *_norm("root_norm", "gn_root", _FLAX, "flat"),
    Row(_UNIT + "conv{n}.weight", (_V1 + "conv{n}/kernel",), "conv"),
    *_norm(_UNIT + "norm{n}", _V1 + "gn{n}", _FLAX, "flat"),
    Row(_UNIT + "shortcut.weight", (_V1 + "conv_proj/kernel",), "conv"),
    *_norm(_UNIT + "shortcut_norm", _V1 + "gn_proj", _FLAX, "flat"),
    Row("head.weight", ("head/kernel",), "dense"),
    Row("head.bias", ("head/bias",)),
)
TIMM = (
    Row("root.weight", ("stem.conv.weight",)),
    *_norm("root_norm", "stem.norm", _TORCH),
    Row(_UNIT + "conv{n}.weight", (_TIMM + "conv{n}.weight",)),
    *_norm(_UNIT + "norm{n}", _TIMM + "norm{n}", _TORCH),
    Row(_UNIT + "shortcut.weight", (_TIMM + "downsample.conv.weight",)),
    *_norm(_UNIT + "shortcut_norm", _TIMM + "downsample.norm", _TORCH),
    *_norm("norm", "norm", _TORCH),
    Row("head.weight", ("head.fc.weight",), "pixel conv"),
    Row("head.bias", ("head.fc.bias",)),
)
TRANSFORMERS = (
    Row("root.weight", ("bit.embedder.convolution.weight",)),
    Row(_UNIT + "conv{n}.weight", (_HF + "conv{n}.weight",)),
    *_norm(_UNIT + "norm{n}", _HF + "norm{n}", _TORCH),
    Row(_UNIT + "shortcut.weight", (_HF + "downsample.conv.weight",)),
    *_norm("norm", "bit.norm", _TORCH),
    Row("head.weight", ("classifier.1.weight",)),
    Row("head.bias", ("classifier.1.bias",)),
)

STYLES = {
    "big_transfer": Style(BIG_TRANSFER, {}),
    "big_vision": Style(BIG_VISION, {"padding": "symmetric"}),
    "big_vision v1": Style(
        BIG_VISION_V1,
        {"order": "post", "padding": "same", "standardise": "deviation", "standardise_eps": 1e-5, "norm_eps": 1e-6},
    ),
    "timm": Style(TIMM, {"standardise_eps": 1e-8}),
    "transformers": Style(TRANSFORMERS, {"standardise_eps": 1e-8}),
}

SIGNATURE = STYLES["big_transfer"].signature


def recognises(keys: Collection[str]) -> bool:
    """Whether this is such a ResNet; a hybrid, which has a ViT behind its ResNet, is not."""
    return _style(keys) is not None


def _style(keys: Collection[str]) -> str | None:
    keys = {_plain(key) for key in _with_prefix(keys)}
    hybrid = any(key.startswith(("Transformer/", "patch_embed.")) for key in keys)
    return None if hybrid else next((name for name, style in STYLES.items() if keys >= style.signature), None)


def _plain(key: str) -> str:
    """Some published files number one layer more: `standardized_conv2d_3`."""
    return re.sub(r"standardized_conv2d_\d+/", "standardized_conv2d/", key)


def _with_prefix(keys: Collection[str]) -> list[str]:
    """The names as in a transformers model with a head: one without has no prefix."""
    bare = "embedder.convolution.weight" in keys
    return [f"bit.{key}" if bare else key for key in keys]


def read(tensors: Mapping[str, Tensor], *, where: str, config: ResNetConfig | None = None) -> Foreign:
    """Config (or the one given) and tensors in our names. WeightsError for missing or unknown keys."""
    style = _style(tensors.keys())
    if style is None:
        raise WeightsError(f"{where} is no ResNet of {', '.join(STYLES)}", next_step="nothing was loaded")
    names = dict(zip(tensors, _with_prefix(tensors), strict=True))
    tensors = {_plain(names[key]): tensor for key, tensor in tensors.items()}
    config = config or ResNetConfig(**sizes(STYLES[style].table, tensors, where), **STYLES[style].habits)
    return Foreign(config, to_ours(rows(config, style), tensors, where=where), Preprocess(size=config.image), LICENCE)


def write(state: Mapping[str, Tensor], config: ResNetConfig, *, style: str = "big_transfer") -> dict[str, Tensor]:
    """A state as their arrays."""
    return to_theirs(rows(config, style), state, heads=1)


def rows(config: ResNetConfig, style: str) -> list[Row]:
    """The table for one model, without what the model does not have."""
    return present(written(STYLES[style].table, config.depths), config)


def sizes(table: Sequence[Row], tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The sizes that shapes give of a ResNet: depths, widths, channels, classes."""
    depths: list[int] = []
    known = {row.theirs[0]: row for row in written(table, (40,) * 4) if row.theirs[0] in tensors}
    try:
        ours = {row.ours: to_ours([row], {name: tensors[name]}, where=where)[row.ours] for name, row in known.items()}
        while f"blocks.{len(depths)}.0.conv3.weight" in ours:
            block = f"blocks.{len(depths)}."
            depths.append(sum(name.startswith(block) and name.endswith("conv3.weight") for name in ours))
        root, widths = ours["root.weight"], [len(ours[f"blocks.{b}.0.conv3.weight"]) for b in range(len(depths))]
    except (KeyError, IndexError, RuntimeError) as error:
        raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
    return {
        "depths": tuple(depths),
        "widths": tuple(widths),
        "root_width": len(root),
        "channels": root.shape[1],
        "classes": len(ours.get("head.bias", ())),
    }


def _write_big_vision(state: Mapping[str, Tensor], config: ResNetConfig) -> dict[str, Tensor]:
    return write(state, config, style="big_vision v1" if config.order == "post" else "big_vision")


def _write_transformers(state: Mapping[str, Tensor], config: ResNetConfig) -> dict[str, Tensor]:
    return transformers_config.add_prefix(write(state, config, style="transformers"), config)


google.LIBRARY.writers["resnet"] = partial(write, style="big_transfer")
big_vision.LIBRARY.writers["resnet"] = _write_big_vision
timm.LIBRARY.writers["resnet"] = partial(write, style="timm")
transformers.LIBRARY.writers["resnet"] = _write_transformers
