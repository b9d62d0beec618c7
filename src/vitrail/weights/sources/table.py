"""Key tables: rows of (our name, their names, layout), read in both directions.

`{i}` in a row stands for the block; a layout says how their axes become ours, and back.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models.zoo import ModelConfig


@dataclass(frozen=True)
class Foreign:
    """A model read from another's file: the config its keys and shapes (and its origin's habits) give, in our names."""

    config: ModelConfig
    tensors: dict[str, Tensor]
    preprocess: Preprocess
    licence: str = ""


@dataclass(frozen=True)
class Row:
    """One tensor of ours, and the one (or three: q, k, v) of theirs."""

    ours: str
    theirs: tuple[str, ...]
    layout: str = "same"


@dataclass(frozen=True)
class Layout:
    """Theirs to ours and back. `back` gets the number of heads too."""

    ours: Callable[[Sequence[Tensor]], Tensor]
    back: Callable[[Tensor, int], Sequence[Tensor]]


LAYOUTS: dict[str, Layout] = {
    "same": Layout(lambda t: t[0], lambda o, heads: [o]),
    # dense kernels: D_in D_out
    "dense": Layout(lambda t: t[0].T, lambda o, heads: [o.T]),
    # convolution kernels: p q C D
    "conv": Layout(lambda t: t[0].permute(3, 2, 0, 1), lambda o, heads: [o.permute(2, 3, 1, 0)]),
    # the same for one pixel: 1 1 C D, and D C 1 1
    "pixel": Layout(lambda t: t[0][0, 0].T, lambda o, heads: [o.T[None, None]]),
    "pixel conv": Layout(lambda t: t[0].flatten(1), lambda o, heads: [o[:, :, None, None]]),
    # a vector, in some files spread over B p q: 1 1 1 C
    "flat": Layout(lambda t: t[0].flatten(), lambda o, heads: [o]),
    "spread": Layout(lambda t: t[0].flatten(), lambda o, heads: [o.reshape(1, 1, 1, -1)]),
    # three kernels D A d, in one matrix 3D D
    "qkv": Layout(
        lambda t: torch.cat([k.flatten(1).T for k in t]),
        lambda o, heads: [k.T.unflatten(1, (heads, -1)) for k in o.chunk(3)],
    ),
    # three matrices D D, or three biases D, one above the other
    "joined": Layout(lambda t: torch.cat(list(t)), lambda o, heads: list(o.chunk(3))),
    # three biases A d
    "qkv bias": Layout(
        lambda t: torch.cat([b.flatten() for b in t]),
        lambda o, heads: [b.unflatten(0, (heads, -1)) for b in o.chunk(3)],
    ),
    # a kernel A d D
    "out": Layout(lambda t: t[0].flatten(0, 1).T, lambda o, heads: [o.T.unflatten(0, (heads, -1))]),
}


def rows_of(table: Sequence[Row], depth: int) -> list[Row]:
    """The table with its block rows written out for `depth` blocks."""
    plain = [row for row in table if "{i}" not in row.ours]
    blocks = [
        Row(row.ours.format(i=i), tuple(name.format(i=i) for name in row.theirs), row.layout)
        for i in range(depth)
        for row in table
        if "{i}" in row.ours
    ]
    return plain + blocks


def to_ours(rows: Sequence[Row], tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Their tensors under our names and in our axes. WeightsError that lists every key missing or left over."""
    known = {name for row in rows for name in row.theirs}
    missing, left = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
    if missing or left:
        words = [f"missing {', '.join(missing)}" if missing else "", f"unknown {', '.join(left)}" if left else ""]
        raise WeightsError(f"{where}: " + "; ".join(word for word in words if word), next_step="nothing was loaded")
    return {row.ours: LAYOUTS[row.layout].ours([tensors[name] for name in row.theirs]).contiguous() for row in rows}


def to_theirs(rows: Sequence[Row], state: Mapping[str, Tensor], *, heads: int) -> dict[str, Tensor]:
    """Our state under their names and in their axes."""
    tensors = {}
    for row in rows:
        parts = LAYOUTS[row.layout].back(state[row.ours], heads)
        tensors |= {name: part.contiguous() for name, part in zip(row.theirs, parts, strict=True)}
    return tensors
