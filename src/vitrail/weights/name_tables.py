"""Key tables: rows of (our name, their names, layout), read in both directions.

`{i}` in a row stands for a block's number. In models of stages `{b}` and `{u}` count stages and units from 0, `{B}` and
`{U}` from 1; `{n}` (or `{abc}`) is one of three convolutions. A layout says how their axes become ours, and back.
"""

import itertools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.extras import value_of


@dataclass(frozen=True)
class Row:
    """One tensor here, and the one (or three: q, k, v) there.

    A row with `when` is for configs where that field (or property) has that value; its name in a file says the field.
    """

    ours: str
    theirs: tuple[str, ...]
    layout: str = "same"
    when: tuple[str, Any] | None = None


def pair(
    ours: str,
    *theirs: str,
    ends: tuple[str, str] = (".weight", ".bias"),
    layouts: tuple[str, str] = ("same", "same"),
    when: tuple[str, Any] | None = None,
) -> tuple[Row, ...]:
    """The rows of a weight and its bias."""
    kinds = zip((".weight", ".bias"), ends, layouts, strict=True)
    return tuple(Row(ours + our, tuple(name + end for name in theirs), layout, when) for our, end, layout in kinds)


def pairs(ours: str, theirs: str, parts: Mapping[str, str] | Sequence[str], **how: Any) -> tuple[Row, ...]:
    """The pairs of several parts of a block: our name of each, and theirs; or the names that both have."""
    return tuple(row for our, their in _named(parts) for row in pair(ours + our, theirs + their, **how))


def tensors(ours: str, theirs: str, parts: Mapping[str, str] | Sequence[str], **how: Any) -> tuple[Row, ...]:
    """The rows of several tensors that are no weight and bias."""
    return tuple(Row(ours + our, (theirs + their,), **how) for our, their in _named(parts))


def _named(parts: Mapping[str, str] | Sequence[str]) -> Iterable[tuple[str, str]]:
    return parts.items() if isinstance(parts, Mapping) else zip(parts, parts, strict=True)


def joined_pool(theirs: str) -> tuple[Row, ...]:
    """The rows of q, and of k and v, of an attention pool; torch has all three in one: `in_proj_weight`."""
    layouts = {"q": "q of three", "kv": "k and v of three"}
    return tuple(
        Row(f"attention_pool.{part}.{end}", (f"{theirs}in_proj_{end}",), layout)
        for end in ("weight", "bias")
        for part, layout in layouts.items()
    )


def prefixed(rows: Sequence[Row], ours: str, theirs: str = "") -> tuple[Row, ...]:
    """The table of a model that stands inside of another."""
    return tuple(replace(row, ours=ours + row.ours, theirs=tuple(theirs + n for n in row.theirs)) for row in rows)


@dataclass(frozen=True)
class Layout:
    """Theirs to ours and back. `back` gets the number of heads, and of their tensors, too."""

    ours: Callable[[Sequence[Tensor]], Tensor]
    back: Callable[[Tensor, int, int], Sequence[Tensor]]
    join: int | None = None
    """The axis along which the parts lie, where several tensors here make one there."""


def _q_and_v(bias: Tensor) -> list[Tensor]:
    q, k, v = bias.chunk(3)
    if k.any():
        raise WeightsError(
            "the keys of attention have a bias that is not zero, for which such a file has no place",
            next_step="nothing was written; convert to another origin",
        )
    return [q, v]


def _from_patch_rows(weight: Tensor) -> Tensor:
    """D (p q C) of a linear map on square patches, channels last, as D C p q; a convolution's kernel stays."""
    if weight.ndim == 4:
        return weight
    values = weight.shape[1]
    channels = next((c for c in (3, 1, 4) if math.isqrt(values // c) ** 2 * c == values), 1)
    side = math.isqrt(values // channels)
    return rearrange(weight, "d (p q c) -> d c p q", p=side, q=side)


def _regrouped(theirs: str, ours: str) -> Layout:
    """Axes in einops' words. Several tensors there, such as q, k and v, lie one above the other here."""

    def read(tensors: Sequence[Tensor]) -> Tensor:
        parts = [rearrange(tensor, f"{theirs} -> {ours}") for tensor in tensors]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def write(tensor: Tensor, heads: int, parts: int) -> list[Tensor]:
        sizes = {"heads": heads} if "heads" in ours else {}
        chunks = tensor.chunk(parts) if parts > 1 else [tensor]
        return [rearrange(part, f"{ours} -> {theirs}", **sizes) for part in chunks]

    return Layout(read, write)


LAYOUTS: dict[str, Layout] = {
    "same": _regrouped("...", "..."),
    "dense": _regrouped("i o", "o i"),
    "conv": _regrouped("p q c d", "d c p q"),
    "depthwise": _regrouped("p q c one", "c one p q"),
    # a convolution of one pixel
    "pixel": _regrouped("1 1 c d", "d c"),
    "pixel conv": _regrouped("d c 1 1", "d c"),
    # the kernels and biases of q, k, v, head by head, and the kernel behind them
    "qkv": _regrouped("i heads d", "(heads d) i"),
    "qkv bias": _regrouped("heads d", "(heads d)"),
    "out": _regrouped("heads d o", "o (heads d)"),
    # a vector for a token; a table without a batch axis; a token for a row
    "vector": _regrouped("d", "1 1 d"),
    "table": _regrouped("n d", "1 n d"),
    "row": _regrouped("1 1 d", "1 d"),
    # a vector, in some files spread over B p q
    "flat": Layout(lambda t: t[0].flatten(), lambda o, heads, parts: [o]),
    "spread": Layout(lambda t: t[0].flatten(), lambda o, heads, parts: [o.reshape(1, 1, 1, -1)]),
    # biases of q and of v alone: k has none
    "q v": Layout(lambda t: torch.cat([t[0], torch.zeros_like(t[0]), t[1]]), lambda o, heads, parts: _q_and_v(o)),
    # one tensor of q, k and v, of which ours are two
    "q of three": Layout(lambda t: t[0].chunk(3)[0], lambda o, heads, parts: [o], join=0),
    "k and v of three": Layout(lambda t: torch.cat(t[0].chunk(3)[1:]), lambda o, heads, parts: [o], join=0),
    # several class tokens: the first, the others
    "first token": Layout(lambda t: t[0][:, :1], lambda o, heads, parts: [o], join=1),
    "other tokens": Layout(lambda t: t[0][:, 1:], lambda o, heads, parts: [o], join=1),
    # rows of a table, in two pieces: the first row, the others
    "rows": Layout(lambda t: torch.cat(list(t), dim=1), lambda o, heads, parts: [o[:, :1], o[:, 1:]]),
    # a linear map on patches: D p·q·C; both are read, so that one name serves both
    "patch conv": Layout(lambda t: _from_patch_rows(t[0]), lambda o, heads, parts: [o]),
    "patch rows": Layout(
        lambda t: _from_patch_rows(t[0]), lambda o, heads, parts: [rearrange(o, "d c p q -> d (p q c)")]
    ),
}


@cache
def _pattern(name: str) -> re.Pattern[str]:
    """The expression for a name of a table."""
    parts = re.split(r"\{([^}]+)\}", name)
    for index, part in enumerate(parts):
        counter = part.partition(":")[0]
        digits = "[abc]" if counter == "abc" else "[0-9]+"
        parts[index] = f"(?P<{counter}>{digits})" if index % 2 else re.escape(part)
    return re.compile("".join(parts))


def _counted(row: Row, match: re.Match[str]) -> Row:
    """The row with the numbers of a name that fits it, whichever way they were counted."""
    at: dict[str, Any] = {key: value if key == "abc" else int(value) for key, value in match.groupdict().items()}
    for zero, one in (("b", "B"), ("u", "U")):
        if zero in at:
            at[one] = at[zero] + 1
        elif one in at:
            at[zero] = at[one] - 1
    if "n" in at:
        at["abc"] = "abc"[at["n"] - 1]
    elif "abc" in at:
        at["n"] = "abc".index(at["abc"]) + 1
    return replace(row, ours=row.ours.format(**at), theirs=tuple(name.format(**at) for name in row.theirs))


def rows_of(table: Sequence[Row], names: Collection[str], config: Any) -> list[Row]:
    """The rows of the tensors that a model of this config has, numbers written out."""
    rows = [row for row in table if row.when is None or value_of(config, row.when[0]) == row.when[1]]
    return [_counted(row, match) for name in names for row in rows if (match := _pattern(row.ours).fullmatch(name))]


def rows_there(table: Sequence[Row], names: Collection[str]) -> list[Row]:
    """The rows whose tensors are among `names`, the names in the file. Numbers are written out."""
    found = [
        _counted(row, match) for name in names for row in table if (match := _pattern(row.theirs[0]).fullmatch(name))
    ]
    return [row for row in found if set(row.theirs) <= set(names)]


def count(names: Collection[str], start: str) -> int:
    """How many numbers, from 0 without a gap, stand behind `start` in the names: blocks, or stages."""
    found = {int(match[1]) for name in names if (match := re.match(rf"{re.escape(start)}(\d+)\.", name))}
    return next(number for number in itertools.count() if number not in found)


def to_shapes(table: Sequence[Row], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors without memory under our names, of all that a table knows: to read sizes from before a model is there."""
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    return {row.ours: one_of_ours(row, shapes, where) for row in rows_there(table, shapes)}


def to_ours(rows: Sequence[Row], tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    """Their tensors under our names and in our axes. WeightsError that lists every key missing or left over."""
    known = {name for row in rows for name in row.theirs}
    missing, left = sorted(known - tensors.keys()), sorted(tensors.keys() - known)
    if missing or left:
        words = [f"missing {', '.join(missing)}" if missing else "", f"unknown {', '.join(left)}" if left else ""]
        raise WeightsError(f"{where}: " + "; ".join(word for word in words if word), next_step="nothing was loaded")
    return {row.ours: one_of_ours(row, tensors, where).contiguous() for row in rows}


def one_of_ours(row: Row, tensors: Mapping[str, Tensor], where: str) -> Tensor:
    """The tensor of one row in our axes; WeightsError where theirs have others than the layout's."""
    try:
        return LAYOUTS[row.layout].ours([tensors[name] for name in row.theirs])
    except (RuntimeError, IndexError):
        shapes = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in row.theirs)
        raise WeightsError(f"{where}: misshapen {shapes}", next_step="nothing was loaded") from None


def to_theirs(rows: Sequence[Row], state: Mapping[str, Tensor], heads: Callable[[str], int]) -> dict[str, Tensor]:
    """Our state under their names and in their axes. `heads` gives the heads of the block a tensor is in."""
    tensors = {}
    for row in rows:
        layout = LAYOUTS[row.layout]
        parts = layout.back(state[row.ours], heads(row.ours), len(row.theirs))
        for name, part in zip(row.theirs, parts, strict=True):
            joined = layout.join is not None and name in tensors
            tensors[name] = torch.cat([tensors[name], part], layout.join or 0) if joined else part.contiguous()
    return tensors


def unstacked(tensors: Mapping[str, Tensor], stack: str) -> dict[str, Tensor]:
    """Arrays of all blocks as one array a block: `encoderblock/x` of L×… becomes `encoderblock_0/x` and on."""
    single = {name: tensor for name, tensor in tensors.items() if not stack or not name.startswith(stack)}
    for name in tensors.keys() - single.keys():
        rest = name.removeprefix(stack)
        single |= {f"{stack.removesuffix('/')}_{i}/{rest}": part for i, part in enumerate(tensors[name])}
    return single


def stacked(tensors: Mapping[str, Tensor], stack: str, depth: int) -> dict[str, Tensor]:
    """The way back."""
    if not stack:
        return dict(tensors)
    heads = [f"{stack.removesuffix('/')}_{i}/" for i in range(depth)]
    single = {name: tensor for name, tensor in tensors.items() if not name.startswith(tuple(heads))}
    rests = [name.removeprefix(heads[0]) for name in tensors if name.startswith(heads[0])]
    return single | {stack + rest: torch.stack([tensors[head + rest] for head in heads]) for rest in rests}
