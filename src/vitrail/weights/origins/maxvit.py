"""MaxViT of google-research (TensorFlow's variables in .npz), and timm's ports of those files (`maxvit_*_tf_*`).

A file tells widths, depths, heads and windows. timm's counts of batches are left out, and written as 0.
"""

import dataclasses
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import INCEPTION, Preprocess
from vitrail.models.maxvit import MaxViTConfig
from vitrail.weights.origins import google, timm
from vitrail.weights.origins.bit import present, written
from vitrail.weights.origins.table import Foreign, Row, laid, to_ours, to_theirs

NAME = "maxvit"
LICENCE = "Apache-2.0"
PREPROCESS = {
    "google": Preprocess(mean=INCEPTION[0], std=INCEPTION[1]),
    "timm": Preprocess(resize="crop", interpolation="bicubic", crop_fraction=0.95, mean=INCEPTION[0], std=INCEPTION[1]),
}
_TORCH = {"weight": ".weight", "bias": ".bias"}
_STATISTICS = {"running_mean": ".running_mean", "running_var": ".running_var"}
_FLAT = {"weight": "/kernel", "bias": "/bias"}
_DENSE = {"weight": "/weight", "bias": "/bias"}
_NORM = {"weight": "/gamma", "bias": "/beta"}
_BATCH = {**_NORM, "running_mean": "/moving_mean", "running_var": "/moving_variance"}


def _rows(ours: str, theirs: str, words: Mapping[str, str], layout: str = "same") -> Iterator[Row]:
    """A row for each of a layer's tensors; the layout is its matrix's."""
    for word, name in words.items():
        yield Row(f"{ours}.{word}", (theirs + name,), layout if word == "weight" else "same")


def _google() -> Iterator[Row]:
    yield from _rows("stem.conv1", "maxvit/stem/conv_0", _FLAT, "conv")
    yield from _rows("stem.norm", "maxvit/stem/norm_0", _BATCH)
    yield from _rows("stem.conv2", "maxvit/stem/conv_1", _FLAT, "conv")
    at, conv, mb = "maxvit/block_{b:02}_{u:02}/", "blocks.{b}.{u}.conv.", "maxvit/block_{b:02}_{u:02}/mbconv/"
    for ours, theirs in (("pre_norm", "pre_norm"), ("norm1", "expand_norm"), ("norm2", "depthwise_norm")):
        yield from _rows(conv + ours, mb + theirs, _BATCH)
    yield Row(conv + "depthwise.weight", (mb + "depthwise_conv/depthwise_kernel",), "depthwise")
    convs = {"expand": "expand_conv", "shrink": "shrink_conv", "shortcut.conv": "shortcut_conv"}
    for ours, theirs in {**convs, "squeeze.reduce": "se/reduce_conv2d", "squeeze.expand": "se/expand_conv2d"}.items():
        yield from _rows(conv + ours, mb + theirs, _FLAT, "conv")
    for block, number in (("attn_window", ""), ("attn_grid", "_1")):
        ours, attention = f"blocks.{{b}}.{{u}}.{block}.", f"{at}attention{number}/"
        yield from _rows(ours + "norm1", f"{at}attn_layer_norm{number}", _NORM)
        yield Row(ours + "attn.qkv.weight", tuple(f"{attention}{part}/weight" for part in "qkv"), "qkv")
        yield Row(ours + "attn.qkv.bias", tuple(f"{attention}{part}/bias" for part in "qkv"), "qkv bias")
        yield from _rows(ours + "attn.proj", attention + "o", _DENSE, "out")
        yield Row(ours + "attn.table", (attention + "relative_bias",))
        yield from _rows(ours + "norm2", f"{at}ffn_layer_norm{number}", _NORM)
        yield from _rows(ours + "mlp.fc1", f"{at}ffn{number}/expand_dense", _DENSE, "dense")
        yield from _rows(ours + "mlp.fc2", f"{at}ffn{number}/shrink_dense", _DENSE, "dense")
    yield from _rows("norm", "maxvit/final_layer_norm", _NORM)
    yield from _rows("pre_logits", "maxvit/cls_head/inner_dense", _DENSE, "dense")
    yield from _rows("head", "maxvit/cls_head/logit_dense", _DENSE, "dense")


def _timm() -> Iterator[Row]:
    every = {**_TORCH, **_STATISTICS}
    for ours, theirs in (("stem.conv1", "stem.conv1"), ("stem.norm", "stem.norm1"), ("stem.conv2", "stem.conv2")):
        yield from _rows(ours, theirs, every)
    at = "stages.{b}.blocks.{u}."
    layers = {"pre_norm": "pre_norm", "expand": "conv1_1x1", "norm1": "norm1", "depthwise": "conv2_kxk"}
    layers |= {"norm2": "norm2", "shrink": "conv3_1x1", "shortcut.conv": "shortcut.expand"}
    for ours, theirs in layers.items():
        yield from _rows(f"blocks.{{b}}.{{u}}.conv.{ours}", f"{at}conv.{theirs}", every)
    for ours, theirs in (("reduce", "fc1"), ("expand", "fc2")):
        yield from _rows(f"blocks.{{b}}.{{u}}.conv.squeeze.{ours}", f"{at}conv.se.{theirs}", _TORCH)
    for block, theirs in (("attn_window.", "attn_block."), ("attn_grid.", "attn_grid.")):
        yield from _transformer(f"blocks.{{b}}.{{u}}.{block}", at + theirs)
    yield from _rows("norm", "head.norm", _TORCH)
    yield from _rows("pre_logits", "head.pre_logits.fc", _TORCH)
    yield from _rows("head", "head.fc", _TORCH)


def _transformer(ours: str, theirs: str) -> Iterator[Row]:
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "norm1", "norm2"):
        yield from _rows(ours + layer, theirs + layer, _TORCH)
    yield Row(ours + "attn.table", (theirs + "attn.rel_pos.relative_position_bias_table",))


TABLES = {"google": tuple(_google()), "timm": tuple(_timm())}
SIGNATURES = {
    "google": {"maxvit/stem/conv_0/kernel", "maxvit/block_00_00/mbconv/pre_norm/gamma"},
    "timm": {"stem.conv1.weight", "stem.norm1.running_mean", "stem.conv2.weight", "head.fc.weight"},
}
SIGNATURE = SIGNATURES["google"]


def recognises(keys: Collection[str]) -> bool:
    return _style(keys) is not None


def _style(keys: Collection[str]) -> str | None:
    style = next((name for name, signature in SIGNATURES.items() if set(keys) >= signature), None)
    # timm's other families have such stems too, and none has these blocks
    return None if style == "timm" and "stages.0.blocks.0.conv.pre_norm.weight" not in keys else style


def read(
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    config: MaxViTConfig | None = None,
    told: Mapping[str, Any] | None = None,
) -> Foreign:
    """Config and tensors in our names. `config`, or fields of it in `told`, say what the file cannot, such as an oblong
    or a larger window. WeightsError for timm's own MaxViTs, which compute something else.
    """
    style = _style(tensors.keys()) or "google"
    if style == "timm" and "stem.conv1.bias" not in tensors:
        raise WeightsError(
            f"{where} is a MaxViT that timm trained itself, not a port of Google's (maxvit_*_tf_*)",
            next_step="load it through the timm package: timm:NAME",
        )
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    said: tuple[str, ...] = ()
    if config is None:
        try:
            config = _config(tensors, style)
        except (KeyError, ValueError, IndexError) as error:
            raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
        if told:
            config = laid(config, told, where)
            said = (f"from the config given: {', '.join(told)}",)
    ours = to_ours(rows(config, style), tensors, where=where)
    return Foreign(config, ours, dataclasses.replace(PREPROCESS[style], size=config.image), LICENCE, said)


def write(state: Mapping[str, Tensor], config: MaxViTConfig, *, style: str = "timm") -> dict[str, Tensor]:
    """A state of ours as their arrays."""
    theirs: dict[str, Tensor] = {}
    for row in rows(config, style):
        theirs |= to_theirs([row], state, heads=_heads(row.ours, config))
    if style == "timm":
        counts = [name for name in theirs if name.endswith("running_mean")]
        theirs |= {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in counts}
    return theirs


def rows(config: MaxViTConfig, style: str) -> list[Row]:
    """The table for one model, without what the model does not have."""
    return present(written(TABLES[style], config.depths), config)


def _heads(name: str, config: MaxViTConfig) -> int:
    """Attention heads of the block a tensor belongs to."""
    found = re.match(r"blocks\.(\d+)\.", name)
    return config.widths[int(found[1])] // config.head_width if found else 1


def _config(tensors: Mapping[str, Tensor], style: str) -> MaxViTConfig:
    """The config that names and shapes give."""
    known = [row for row in written(TABLES[style], (64,) * 4) if all(name in tensors for name in row.theirs)]
    ours = {row.ours: to_ours([row], {name: tensors[name] for name in row.theirs}, where="")[row.ours] for row in known}
    depths, widths = [], []
    while any(name.startswith(f"blocks.{len(depths)}.0.") for name in ours):
        at = f"blocks.{len(depths)}."
        depths.append(len({name.split(".")[2] for name in ours if name.startswith(at)}))
        widths.append(len(ours[at + "0.conv.shrink.weight"]))
    table = ours["blocks.0.0.attn_window.attn.table"]
    h, w = ((number + 1) // 2 for number in table.shape[1:])
    scale = 2 ** (len(depths) + 1)
    return MaxViTConfig(
        depths=tuple(depths),
        widths=tuple(widths),
        stem=(len(ours["stem.conv1.weight"]), len(ours["stem.conv2.weight"])),
        channels=ours["stem.conv1.weight"].shape[1],
        classes=len(ours.get("head.weight", ())),
        pre_logits=len(ours.get("pre_logits.bias", ())),
        head_width=widths[0] // len(table),
        image=(h * scale, w * scale),
        # stored as they are, whatever image the model is then made for
        bias_window=(h, w),
    )


google.LIBRARY.writers["maxvit"] = partial(write, style="google")
timm.LIBRARY.writers["maxvit"] = partial(write, style="timm")
