"""MaxViT of google-research (TensorFlow's variables in .npz), MaxViT and CoAtNet of timm, MaxViT of torchvision.

A file tells widths, depths, blocks, heads and windows. Activation, epsilon and padding it does not; its origin does
(`vitrail.models.mbconv.Dialect`). What a file has and a model does not need is left out, and written anew: counts of
batches (as 0) and torchvision's indices.
"""

import dataclasses
import math
import re
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.maxvit import MaxViTConfig
from vitrail.models.mbconv import GOOGLE, TORCHVISION
from vitrail.weights.origins import google, timm, torchvision
from vitrail.weights.origins.bit import present, written
from vitrail.weights.origins.dialects import LICENCES, PREPROCESS, dialect_of, unsaid
from vitrail.weights.origins.table import Foreign, Row, laid, to_ours, to_theirs

NAME = "maxvit"
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
    for inside in ("conv.", ""):  # of an M block; or a C block, which is that and no more
        for ours, theirs in layers.items():
            yield from _rows(f"blocks.{{b}}.{{u}}.{inside}{ours}", at + inside + theirs, every)
        for ours, theirs in (("reduce", "fc1"), ("expand", "fc2")):
            se = "se_early" if not inside else "se"
            yield from _rows(f"blocks.{{b}}.{{u}}.{inside}squeeze.{ours}", f"{at}{inside}{se}.{theirs}", _TORCH)
    for block, theirs in (("attn_window.", "attn_block."), ("attn_grid.", "attn_grid."), ("", "")):
        yield from _transformer(f"blocks.{{b}}.{{u}}.{block}", at + theirs, "same" if block else "pixel conv")
    yield from _rows("norm", "head.norm", every)
    yield from _rows("pre_logits", "head.pre_logits.fc", _TORCH)
    yield from _rows("head", "head.fc", _TORCH)


def _transformer(ours: str, theirs: str, layout: str) -> Iterator[Row]:
    for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
        yield from _rows(ours + layer, theirs + layer, _TORCH, layout)
    for layer in ("norm1", "norm2"):
        yield from _rows(ours + layer, theirs + layer, {**_TORCH, **_STATISTICS})
    for layer in ("ls1.gamma", "ls2.gamma"):
        yield Row(ours + layer, (theirs + layer,))
    yield Row(ours + "attn.table", (theirs + "attn.rel_pos.relative_position_bias_table",))


def _torchvision() -> Iterator[Row]:
    every = {**_TORCH, **_STATISTICS}
    for ours, theirs in (("stem.conv1", "stem.0.0"), ("stem.norm", "stem.0.1"), ("stem.conv2", "stem.1.0")):
        yield from _rows(ours, theirs, every)
    at, layers = "blocks.{b}.layers.{u}.layers.", "blocks.{b}.layers.{u}.layers.MBconv.layers."
    names = {"pre_norm": "pre_norm", "expand": "conv_a.0", "norm1": "conv_a.1", "depthwise": "conv_b.0"}
    names |= {"norm2": "conv_b.1", "squeeze.reduce": "squeeze_excitation.fc1", "shrink": "conv_c"}
    for ours, theirs in {**names, "squeeze.expand": "squeeze_excitation.fc2"}.items():
        yield from _rows(f"blocks.{{b}}.{{u}}.conv.{ours}", layers + theirs, every)
    yield from _rows("blocks.{b}.{u}.conv.shortcut.conv", at + "MBconv.proj.1", _TORCH)
    parts = {"norm1": "attn_layer.0", "attn.qkv": "attn_layer.1.to_qkv", "attn.proj": "attn_layer.1.merge"}
    parts |= {"norm2": "mlp_layer.0", "mlp.fc1": "mlp_layer.1", "mlp.fc2": "mlp_layer.3"}
    for block, theirs in (("attn_window.", "window_attention."), ("attn_grid.", "grid_attention.")):
        for ours, name in parts.items():
            yield from _rows(f"blocks.{{b}}.{{u}}.{block}{ours}", at + theirs + name, _TORCH)
        table = f"{at}{theirs}attn_layer.1.relative_position_bias_table"
        yield Row(f"blocks.{{b}}.{{u}}.{block}attn.table", (table,))
    for ours, theirs in (("norm", "classifier.2"), ("pre_logits", "classifier.3"), ("head", "classifier.5")):
        yield from _rows(ours, theirs, _TORCH)


TABLES = {"google": tuple(_google()), "timm": tuple(_timm()), "torchvision": tuple(_torchvision())}
SIGNATURES = {
    "google": {"maxvit/stem/conv_0/kernel", "maxvit/block_00_00/mbconv/pre_norm/gamma"},
    "timm": {"stem.conv1.weight", "stem.norm1.running_mean", "stem.conv2.weight", "head.fc.weight"},
    "torchvision": {"stem.0.0.weight", "blocks.0.layers.0.layers.MBconv.layers.pre_norm.weight", "classifier.5.weight"},
}
SIGNATURE = SIGNATURES["google"]


def recognises(keys: Collection[str]) -> bool:
    return _style(keys) is not None


def _style(keys: Collection[str]) -> str | None:
    style = next((name for name, signature in SIGNATURES.items() if set(keys) >= signature), None)
    # timm's other families have such stems too, none has these blocks
    blocks = "stages.0.blocks.0.conv.pre_norm.weight", "stages.0.blocks.0.pre_norm.weight"
    return None if style == "timm" and not any(name in keys for name in blocks) else style


def read(
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    config: MaxViTConfig | None = None,
    told: Mapping[str, Any] | None = None,
) -> Foreign:
    """Config and tensors in our names; `config`, or fields of it in `told`, say what the file cannot, such as an oblong
    or a larger window.
    """
    style = _style(tensors.keys()) or "google"
    if any(".rel_pos.mlp." in name for name in tensors):
        what = "relative biases that a small network computes (timm's rmlp models), which no model here has"
        raise WeightsError(f"{where} has {what}", next_step="use timm")
    early = any(".se_early." in name for name in tensors)
    unneeded = ("num_batches_tracked", "relative_position_index")
    tensors = {_unnested(name): tensor for name, tensor in tensors.items() if not name.endswith(unneeded)}
    said: tuple[str, ...] = ()
    if config is None:
        try:
            config = _config(tensors, style, told or {}, early=early)
        except (KeyError, ValueError, IndexError) as error:
            raise WeightsError(f"{where}: {error} is missing or misshapen", next_step="nothing was loaded") from None
        said = () if "dialect" in (told or {}) else unsaid(config)
        if told:
            config = laid(config, told, where)
            said = (*said, f"from the config given: {', '.join(told)}")
    ours = to_ours(rows(config, style), tensors, where=where)
    if style != "google":
        ours = {name: _from_torch(name, tensor, config, style) for name, tensor in ours.items()}
    return Foreign(config, ours, dataclasses.replace(PREPROCESS[style], size=config.image), LICENCES[style], said)


def write(state: Mapping[str, Tensor], config: MaxViTConfig, *, style: str = "timm") -> dict[str, Tensor]:
    """A state of ours as their arrays."""
    if style != "google":
        state = {name: _to_torch(name, tensor, config, style) for name, tensor in state.items()}
    theirs: dict[str, Tensor] = {}
    for row in rows(config, style):
        theirs |= to_theirs([row], state, heads=_heads(row.ours, config))
    theirs = {_nested(name, config): tensor for name, tensor in theirs.items()}
    if style != "google":
        counts = [name for name in theirs if name.endswith("running_mean")]
        theirs |= {name.replace("running_mean", "num_batches_tracked"): torch.tensor(0) for name in counts}
    if style == "torchvision":
        tables = [name for name in theirs if name.endswith("_bias_table")]
        theirs |= {name.replace("bias_table", "index"): _index(config.partition) for name in tables}
    return theirs


def rows(config: MaxViTConfig, style: str) -> list[Row]:
    """The table for one model, without what the model does not have."""
    table = written(TABLES[style], config.depths)
    if config.dialect.final_norm == "tokens":  # then it is no part of timm's head
        table = [
            dataclasses.replace(row, theirs=(row.theirs[0].replace("head.norm", "norm"),))
            for row in table
            if len(row.theirs) == 1
        ]
    return present(table, config)


def _heads(name: str, config: MaxViTConfig) -> int:
    """Attention heads of the block a tensor belongs to."""
    found = re.match(r"blocks\.(\d+)\.(\d+)", name)
    if not found:
        return 1
    stage, block = int(found[1]), int(found[2])
    widens = config.kinds[stage] == "T" and block == 0  # whose attention comes before the channels change
    return (config.stem[1], *config.widths)[stage + (not widens)] // config.head_width


_EARLY = re.compile(r"(stages\.\d+\.blocks\.\d+)\.se\.")


def _unnested(name: str) -> str:
    """One name for what timm calls by two: its norm has a pooling beside it where a transformer block halves the map,
    and squeeze-and-excitation is `se_early` where it comes first (a dialect's `squeeze_first`).
    """
    return _EARLY.sub(r"\1.se_early.", name.replace(".norm1.norm.", ".norm1."))


def _nested(name: str, config: MaxViTConfig) -> str:
    found = re.match(r"stages\.(\d+)\.blocks\.0\.norm1\.", name)
    nested = found and config.kinds[int(found[1])] == "T"
    name = name if config.dialect.squeeze_first else name.replace(".se_early.", ".se.")
    return name.replace(".norm1.", ".norm1.norm.") if nested else name


def _from_torch(name: str, tensor: Tensor, config: MaxViTConfig, style: str) -> Tensor:
    """Their offsets count query minus key, ours (and TensorFlow's) key minus query; timm's rows are head by head."""
    if name.endswith("attn.table") and tensor.ndim == 2:
        y, x = _table_size(name, config)
        if len(tensor) != y * x:
            raise WeightsError(
                f"{name} has {len(tensor)} offsets, a window of {(y + 1) // 2}×{(x + 1) // 2} has {y * x}",
                next_step='say the image or the window: config={"image": [height, width]}',
            )
        return tensor.T.unflatten(1, (y, x)).flip(1, 2).contiguous()
    if "attn.qkv" in name and style == "timm" and config.dialect.conv_activation == "silu":
        return tensor.unflatten(0, (_heads(name, config), 3, -1)).transpose(0, 1).flatten(0, 2).contiguous()
    return tensor


def _to_torch(name: str, tensor: Tensor, config: MaxViTConfig, style: str) -> Tensor:
    """`_from_torch` undone. timm's ports of Google's weights keep Google's order in both."""
    if name.endswith("attn.table") and config.dialect.conv_activation != "gelu-tanh":
        return tensor.flip(1, 2).flatten(1).T.contiguous()
    if "attn.qkv" in name and style == "timm" and config.dialect.conv_activation == "silu":
        return tensor.unflatten(0, (3, _heads(name, config), -1)).transpose(0, 1).flatten(0, 2).contiguous()
    return tensor


def _table_size(name: str, config: MaxViTConfig) -> tuple[int, int]:
    h, w = config.table_window(int(name.split(".")[1]))
    return 2 * h - 1, 2 * w - 1


def _index(window: tuple[int, int]) -> Tensor:
    """torchvision's buffer: where in its table each pair of tokens looks."""
    h, w = window
    y, x = (torch.arange(size) for size in window)
    rows, columns = y[:, None] - y + h - 1, x[:, None] - x + w - 1
    return (rows[:, None, :, None] * (2 * w - 1) + columns[None, :, None, :]).flatten(2).flatten(0, 1)


def _config(tensors: Mapping[str, Tensor], style: str, told: Mapping[str, Any], *, early: bool) -> MaxViTConfig:
    """What names and shapes tell, and the origin's dialect. A table that is one row a pair is of a square window, unless
    the image or window told says which.
    """
    known = [row for row in written(TABLES[style], (64,) * 4) if all(name in tensors for name in row.theirs)]
    ours = {row.ours: to_ours([row], {name: tensors[name] for name in row.theirs}, where="")[row.ours] for row in known}
    depths, kinds, widths = [], "", []
    while any(name.startswith(f"blocks.{len(depths)}.0.") for name in ours):
        at = f"blocks.{len(depths)}."
        depths.append(len({name.split(".")[2] for name in ours if name.startswith(at)}))
        last = {"M": "0.conv.shrink.weight", "C": "0.shrink.weight", "T": "0.attn.proj.weight"}
        kinds += next(kind for kind, name in last.items() if at + name in ours)
        widths.append(len(ours[at + last[kinds[-1]]]))
    said: dict[str, Any] = {
        "depths": tuple(depths),
        "widths": tuple(widths),
        "kinds": kinds,
        "stem": (len(ours["stem.conv1.weight"]), len(ours["stem.conv2.weight"])),
        "channels": ours["stem.conv1.weight"].shape[1],
        "classes": len(ours.get("head.weight", ())),
        "pre_logits": len(ours.get("pre_logits.bias", ())),
        "dialect": {"google": GOOGLE, "torchvision": TORCHVISION}.get(style),
    }
    if style == "timm":
        said["dialect"] = dialect_of(ours, kinds, batch="norm.running_mean" in tensors, early=early)
    name = next((name for name in ours if name.endswith("attn.table")), None)
    if name is None:
        return MaxViTConfig(**said)
    table, stage = ours[name], int(name.split(".")[1])
    heads = table.shape[0 if table.ndim == 3 else 1]
    said["head_width"] = ours[name.replace("table", "proj.weight")].shape[1] // heads
    side = math.isqrt(len(table))
    if table.ndim == 2 and side * side != len(table):  # oblong: of the image's last map, or as told
        return MaxViTConfig(**said, image=tuple(told.get("image", (224, 224))))
    offsets = table.shape[1:] if table.ndim == 3 else (side, side)
    h, w = ((number + 1) // 2 for number in offsets)
    scale = 2 ** ((stage if kinds[stage] == "T" else len(depths) - 1) + 2)
    # stored as they are, whatever image the model is then made for
    return MaxViTConfig(**said, image=(h * scale, w * scale), bias_window=(h, w) if "M" in kinds else None)


google.LIBRARY.writers["maxvit"] = partial(write, style="google")
timm.LIBRARY.writers["maxvit"] = partial(write, style="timm")
torchvision.LIBRARY.writers["maxvit"] = partial(write, style="torchvision")
