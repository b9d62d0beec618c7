"""Learning rates, parameter groups and optimisers.

One function gives the learning rate of a step; one gives each parameter its share of it and its weight decay.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitrail.errors import ConfigError
from vitrail.models.backbone import Backbone
from vitrail.processes.world import is_shard
from vitrail.training.lars_lamb import LAMB, LARS
from vitrail.training.muon import Muon
from vitrail.training.run import Optim, steps


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a function of the step: warm-up × decay × cool-down, as big_vision and vision_transformer define them.

    The decay starts after the warm-up; the warm-up multiplies the decayed value. Lengths are in steps.
    """

    optim: Optim
    peak: float
    total: int
    warmup: int
    cooldown: int = 0
    head_start: int = 0
    """Steps that the warm-up is ahead. With 0, as published, the first step has rate 0 and changes nothing."""

    def __call__(self, step: float) -> float:
        warm = min(1.0, (step + self.head_start) / self.warmup) if self.warmup else 1.0
        cool = min(1.0, (self.total - step) / self.cooldown) if self.cooldown else 1.0
        return warm * cool * self._decay(step)

    def _decay(self, step: float) -> float:
        kind, peak, end = self.optim.schedule, self.peak, self.optim.final_lr
        progress = min(1.0, max(0.0, (step - self.warmup) / max(1, self.total - self.warmup)))
        if kind == "cosine":
            return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))
        if kind == "linear":
            return end + (peak - end) * (1 - progress) ** self.optim.power
        if kind == "rsqrt":  # flat until the warm-up ends, then 1/√ of the steps, shifted so that both meet
            since = max(0.0, step - self.warmup)
            return peak / math.sqrt(1 + since / self.optim.timescale)
        if kind == "stair":
            return peak * self.optim.drop ** sum(step >= share * self.total for share in self.optim.milestones)
        return peak


def schedule(optim: Optim, *, batch_size: int, steps_per_epoch: float, total: int, head_start: int = 0) -> Schedule:
    """The schedule of a run of `total` steps; `lr` is scaled by batch_size / lr_batch where the recipe asks for it."""

    def length(text: str) -> int:
        return steps(text, steps_per_epoch=steps_per_epoch, total=total)

    peak = optim.lr * (batch_size / optim.lr_batch if optim.lr_batch else 1.0)
    return Schedule(optim, peak, total, length(optim.warmup), length(optim.cooldown), head_start)


@dataclass(frozen=True)
class Tuned:
    """One parameter as the optimiser sees it: its share of the learning rate and its weight decay."""

    name: str
    parameter: nn.Parameter
    lr_scale: float
    weight_decay: float
    matrix: bool = False
    """A weight matrix between stem and head: what Muon is for."""


def tune(model: Any, optim: Optim) -> list[Tuned]:
    """Every trainable parameter of a backbone or learner (what has `stages`), its learning-rate scale and weight decay.

    Layer-wise decay gives stage i of n the scale decay^(n-1-i): the head 1, each block below it one factor less.
    Weight decay falls on kernels alone: never on biases, norms, class tokens, positions or layer scales.
    """
    stages = model.stages()
    last = len(stages) - 1
    stage = {id(parameter): k for k, (_, content) in enumerate(stages) for parameter in stage_parameters(content)}

    def tuned(name: str, parameter: nn.Parameter) -> Tuned:
        depth, decays = stage[id(parameter)], _decays(name, parameter)
        matrix = decays and parameter.ndim == 2 and 0 < depth < last
        return Tuned(name, parameter, optim.layer_decay ** (last - depth), optim.weight_decay * decays, matrix)

    return [tuned(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]


def stage_parameters(content: nn.Module | Sequence[nn.Module | nn.Parameter]) -> Iterator[nn.Parameter]:
    """All parameters of a stage, which is a module, or modules and loose parameters."""
    for part in [content] if isinstance(content, nn.Module | nn.Parameter) else content:
        yield from [part] if isinstance(part, nn.Parameter) else part.parameters()


def _decays(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim > 1 and name.rsplit(".", 1)[-1] == "weight"


def optimiser(tuned: Sequence[Tuned], optim: Optim) -> torch.optim.Optimizer:
    """AdamW, Adam or SGD with momentum, fused; LARS, LAMB or Muon; one group per (scale, decay, matrix)."""
    sharded, muon = any(is_shard(one.parameter) for one in tuned), optim.name == "muon"
    if muon and sharded:
        raise ConfigError("Muon with weights in shards: it needs whole matrices", allowed="hardware.parallel = 'ddp'")
    momentum, betas = {"momentum": optim.momentum}, {"betas": optim.betas}
    kinds: dict[str, tuple[Any, dict[str, Any]]] = {
        "adamw": (torch.optim.AdamW, {**betas, "fused": True}),  # a rate as a float: the fused kernels take it directly
        "adam": (torch.optim.Adam, {**betas, "fused": True}),
        "sgd": (torch.optim.SGD, {**momentum, "fused": not sharded}),  # torch has no fused SGD of shards
        "lars": (LARS, momentum),
        "lamb": (LAMB, betas),
        "muon": (Muon, {**momentum, **betas}),
    }
    kind, options = kinds[optim.name]
    groups: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for one in tuned:
        groups.setdefault((one.lr_scale, one.weight_decay, one.matrix and muon), []).append(one.parameter)
    settings = [
        {"params": parameters, "lr_scale": scale, "weight_decay": decay, "matrix": matrix, "lr": 0.0}
        for (scale, decay, matrix), parameters in groups.items()
    ]
    return kind(settings, lr=0.0, **options)


def kept(optimizer: torch.optim.Optimizer) -> dict[int, tuple[str, ...]]:
    """The names of the optimiser's state of each parameter, by its id: a count of steps, and tensors like the parameter."""
    simple = isinstance(optimizer, torch.optim.SGD | LARS)
    return {
        id(parameter): ("momentum_buffer",) if simple or group["matrix"] else ("step", "exp_avg", "exp_avg_sq")
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]


def freeze_backbone(model: Backbone, last_blocks: int = 0) -> None:
    """Leaves only the head trainable: a linear probe. With `last_blocks`, that many of the last blocks too, and all
    behind them. Raises ConfigError for more blocks than there are.
    """
    stages = model.stages()
    blocks = len(stages) - 2  # between stem and head
    if not 0 <= last_blocks <= blocks:
        raise ConfigError(f"last_blocks = {last_blocks}", allowed=f"0 … {blocks}, the blocks of this model")
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    if last_blocks:
        for _, content in stages[-1 - last_blocks :]:
            for parameter in stage_parameters(content):
                parameter.requires_grad_(True)
