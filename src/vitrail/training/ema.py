"""A moving average of the weights (Polyak averaging; ViT Table 2 uses 0.9999)."""

import copy

import torch
from torch import Tensor, nn

from vitrail.processes.world import own


class Ema:
    """`average ← decay·average + (1 - decay)·weights` after every step.

    Early on the decay is held to (1 + t) / (10 + t), so that the random start does not linger. Buffers are copied.
    `average` is what it starts from: a copy of the model, unless one is given (in shards, say, which cannot be copied).
    """

    def __init__(self, model: nn.Module, decay: float, average: nn.Module | None = None) -> None:
        self.decay = decay
        self.model = (copy.deepcopy(model) if average is None else average).eval().requires_grad_(False)
        self._ours: list[Tensor] = [own(parameter) for parameter in self.model.parameters()]

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """`step` counts finished optimiser steps, so a resumed average continues exactly."""
        decay = min(self.decay, (1 + step) / (10 + step))
        theirs: list[Tensor] = [own(parameter.detach()) for parameter in model.parameters()]
        torch._foreach_lerp_(self._ours, theirs, 1 - decay)
        for ours, current in zip(self.model.buffers(), model.buffers(), strict=True):
            ours.copy_(current)
