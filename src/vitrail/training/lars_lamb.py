"""Optimisers for very large batches: each tensor's step is as long as a trust ratio says, ‖w‖ over ‖update‖."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def trust_ratio(weight: Tensor, update: Tensor, coefficient: float = 1.0) -> Tensor:
    """coefficient · ‖w‖ / ‖update‖, and 1 where either is zero: a scalar on the device, nothing is read back."""
    ours, theirs = torch.linalg.vector_norm(weight), torch.linalg.vector_norm(update)
    ratio = coefficient * ours / theirs.clamp(min=torch.finfo(theirs.dtype).tiny)
    return torch.where((ours > 0) & (theirs > 0), ratio, torch.ones_like(ratio))


class LARS(torch.optim.Optimizer):
    """You, Gitman and Ginsburg (arXiv 1708.03888), as MoCo v3 and MAE probe with it: SGD with momentum whose gradient is

        d ← g + λ·w;  d ← η·‖w‖/‖d‖ · d;  v ← μ·v + d;  w ← w − lr·v

    Tensors of one axis (biases, norms) get neither decay nor ratio.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float = 0.9, trust: float = 0.001) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "trust": trust, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                update = weight.grad
                if weight.ndim > 1:
                    update = update.add(weight, alpha=group["weight_decay"])
                    update = update * trust_ratio(weight, update, group["trust"])
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                velocity = state["momentum_buffer"].mul_(group["momentum"]).add_(update)
                weight.sub_(velocity, alpha=group["lr"])


class LAMB(torch.optim.Optimizer):
    """You et al. (arXiv 1904.00962, Algorithm 2), as DeiT III trains with it: Adam's step, decay added, then the ratio

        u = m̂ / (√v̂ + ε) + λ·w;  w ← w − lr · ‖w‖/‖u‖ · u

    Tensors without decay (biases, norms) take u as it is.
    """

    def __init__(
        self, params: Iterable[Any], lr: float, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-6
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        for group in self.param_groups:
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                update = self._adam(weight, group["betas"], group["eps"])
                if group["weight_decay"]:
                    update.add_(weight, alpha=group["weight_decay"])
                    update.mul_(trust_ratio(weight, update))
                weight.sub_(update, alpha=group["lr"])

    def _adam(self, weight: Tensor, betas: tuple[float, float], eps: float) -> Tensor:
        """m̂ / (√v̂ + ε); the number of steps lies on the CPU, as Adam's does."""
        (beta1, beta2), state = betas, self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        state["step"] = state["step"].cpu() + 1
        step = float(state["step"])
        first = state["exp_avg"].lerp_(weight.grad, 1 - beta1)
        second = state["exp_avg_sq"].mul_(beta2).addcmul_(weight.grad, weight.grad, value=1 - beta2)
        return (first / (1 - beta1**step)) / ((second / (1 - beta2**step)).sqrt_().add_(eps))
