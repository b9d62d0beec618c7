"""Tensors into a model: all of them or none, or, where fine-tuning asks for it, adapted with a line for each change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitrail.errors import WeightsError
from vitrail.models.extras import settings
from vitrail.models.maxvit import resize_bias
from vitrail.models.resize import resize_line, resize_table
from vitrail.models.timm_model import resize_positions
from vitrail.models.zoo import ModelConfig

# Fields that a new task may change; all others must be those the weights were trained with
FREE = {
    "image", "channels", "classes", "pool", "class_token", "registers", "positions", "positions_on", "position_resize",
    "final_norm", "pre_logits", "normalise", "head_bias", "dropout", "drop_path", "layer_scale", "window", "bias_window",
}  # fmt: skip
# Modules a new task may leave behind or bring along
TASK = ("head", "pre_logits", "attention_pool", "cls_token", "registers", "positions")


@dataclass(frozen=True)
class Report:
    """The fate of each tensor when weights start a new task: kept, resized, dropped or new."""

    kept: tuple[str, ...] = ()
    resized: tuple[str, ...] = ()
    """With both shapes: `positions.table 1×197×768 → 1×577×768`."""
    dropped: tuple[str, ...] = ()
    new: tuple[str, ...] = ()
    of_words: bool = False
    """Whether the old head was made of names by a text tower."""

    def lines(self) -> Iterator[str]:
        """One sentence for each kind of change."""
        yield f"weights: {len(self.kept)} tensors kept as they are"
        for word in ("resized", "dropped", "new"):
            if names := getattr(self, word):
                yield f"weights: {word} {', '.join(names)}"
        if self.of_words:
            yield "weights: the head made of words stays behind; the new one learns from labelled images alone"


def fit(model: nn.Module, tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Puts the tensors into the model, in its own dtypes. WeightsError lists every name and shape that differs.

    The model, which may lie on the meta device, is untouched on failure.
    """
    wanted = model.state_dict()
    if problems := misfits(wanted, tensors):
        raise WeightsError(
            f"{where} does not fit the model: " + ", ".join(problems),
            next_step="nothing was loaded; give the config these weights were made with",
        )
    owned = {name: tensors[name].to(wanted[name].dtype, copy=True).contiguous() for name in wanted}
    model.load_state_dict(owned, assign=True)


def misfits(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[str]:
    """Every name and shape of `tensors` that differs from those `wanted`, as words."""
    problems = [f"{name} is missing" for name in wanted if name not in tensors]
    problems += [f"{name} is not part of the model" for name in tensors if name not in wanted]
    for name in wanted.keys() & tensors.keys():
        have, want = tensors[name], wanted[name]
        if have.shape != want.shape:
            problems.append(f"{name} is {shape(have)}, the model has {shape(want)}")
        elif not have.is_floating_point():
            problems.append(f"{name} is {have.dtype}, not floating point")
    return sorted(problems)


def adapt(
    tensors: Mapping[str, Tensor], old: ModelConfig, fresh: Mapping[str, Tensor], new: ModelConfig, *, where: str
) -> tuple[dict[str, Tensor], Report]:
    """A state for the task of `new`: of `tensors`, a model of `old`, all that fits; the rest of `fresh` (section 3.2).

    The head stays behind for the fresh, zero one; positions are resized in 2-D; a patch embedding is spread over other
    channels. WeightsError where the bodies differ.
    """
    _same_body(old, new, where)
    state, kept, resized = dict(fresh), [], {}
    for name, want in fresh.items():
        plain = _plain(name, new)
        if name not in tensors or plain.startswith("head."):
            continue
        tensor = tensors[name]
        fitted = _spread(_resized(name, tensor, old, new), want, old.channels, new.channels)
        if fitted.shape != want.shape and plain.startswith(TASK):
            continue
        state[name] = fitted
        if fitted is tensor:
            kept.append(name)
        else:
            resized[name] = f"{name} {shape(tensor)} → {shape(fitted)}"
    used = {*kept, *resized}
    fresh_ones = [name for name in fresh if name not in used]
    dropped = [name for name in tensors if name not in used]
    strange = [name for name in {*fresh_ones, *dropped} if not _plain(name, new).startswith(TASK)]
    if strange:
        raise WeightsError(
            f"{where} has another body than the model: {', '.join(sorted(strange))}",
            next_step="leave the model out, to take the one of the weights",
        )
    of_words = settings(old).get("normalise", False)
    return state, Report(tuple(kept), tuple(resized.values()), tuple(dropped), tuple(fresh_ones), of_words)


def at_size(tensors: Mapping[str, Tensor], old: ModelConfig, new: ModelConfig) -> dict[str, Tensor]:
    """The same model at another image size: its position tables resized, all else as it is."""
    return {name: _resized(name, tensor, old, new) for name, tensor in tensors.items()}


def _same_body(old: ModelConfig, new: ModelConfig, where: str) -> None:
    """Heads, activation and epsilon leave no trace in a shape: without this check they would be wrong in silence."""
    ours, theirs = ({"family": config.family, **settings(config)} for config in (new, old))
    found = [(name, theirs[name], ours.get(name)) for name in theirs if name not in FREE]
    differing = [f"{name} is {there}, the model has {here}" for name, there, here in found if there != here]
    if differing:
        raise WeightsError(
            f"{where} was trained in another model: {', '.join(differing)}",
            next_step="leave the model out, to take the one of the weights, or set these fields",
        )


def _resized(name: str, tensor: Tensor, old: Any, new: Any) -> Tensor:
    """A tensor that depends on the image's size or channels, made for the new ones; any other as it came.

    A name implies the fields that are read: a family with a position table has a grid.
    """
    part, _, rest = name.partition(".")
    if part in old.parts:
        return _resized(rest, tensor, old.parts[part], new.parts[part])
    table, _, field = name.rpartition(".")
    if table == "positions" or table.startswith("layer_positions."):
        return _positions(tensor, old, new) if field == "table" else resize_line(tensor, new.grid[field == "columns"])
    if name.endswith("attn.relative.table"):
        return resize_line(tensor, 2 * (new.prefix + new.grid[0] * new.grid[1]) - 1)
    if name.endswith("attn.table"):
        return resize_bias(tensor, new.table_window)
    if name == "body.pos_embed":  # a ViT of timm
        return resize_positions(tensor, old, new)
    return tensor


def _spread(tensor: Tensor, want: Tensor, old: int, new: int) -> Tensor:
    """The kernel that reads pixels for another number of channels: a grey picture gives the same tokens."""
    if old == new or tensor.ndim != 4 or (tensor.shape[1], want.shape[1]) != (old, new):
        return tensor
    return (tensor.sum(1, keepdim=True) / new).expand(-1, new, -1, -1)


def _plain(name: str, config: ModelConfig) -> str:
    """The name a tensor has in a model that stands alone."""
    part, _, rest = name.partition(".")
    return _plain(rest, config.parts[part]) if part in config.parts else name


def _positions(table: Tensor, old: Any, new: Any) -> Tensor:
    """Prefix rows as they are (zero where the new model has more), the patches' rows resized in two dimensions."""
    if (old.positioned_prefix, old.grid) == (new.positioned_prefix, new.grid):
        return table
    prefix, patches = table[:, : old.positioned_prefix], table[:, old.positioned_prefix :]
    rows = table.new_zeros(1, new.positioned_prefix, table.shape[2])
    both = min(old.positioned_prefix, new.positioned_prefix)
    rows[:, :both] = prefix[:, :both]
    return torch.cat([rows, resize_table(patches, old.grid, new.grid, new.extras.position_resize)], dim=1)


def shape(tensor: Tensor | Sequence[int]) -> str:
    """`1×197×768`, or `scalar`."""
    numbers = tensor.shape if isinstance(tensor, Tensor) else tensor
    return "×".join(map(str, numbers)) or "scalar"
