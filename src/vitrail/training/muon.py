"""Muon for the matrices of the blocks, AdamW for all else.

K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024): the momentum of a matrix is brought near
the orthogonal matrix of the same singular vectors, so every direction learns at the same pace. The factor 0.2 √max(m, n)
(arXiv 2502.16982) gives a step the size of Adam's: rate and decay of AdamW serve both.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

_A, _B, _C = 3.4445, -4.7750, 2.0315
"""Coefficients of the polynomial a x + b x³ + c x⁵, five times of which bring singular values to 0.7 … 1.2."""


class Muon(torch.optim.AdamW):
    """One optimiser of two rules: groups with `matrix` follow Muon, the others AdamW.

        v ← μ·v + (1 - μ)·g;  u ← orthogonal((1 - μ)·g + μ·v);  w ← (1 - lr·λ)·w - 0.2 √max(m, n) · lr · u

    torch.optim.Muon has the same rule; it takes matrices alone, so that a model would need two optimisers.
    """

    def __init__(self, params: Iterable[Any], lr: float, momentum: float, betas: tuple[float, float]) -> None:
        super().__init__(params, lr=lr, betas=betas, fused=True)
        self.defaults["momentum"] = momentum

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyrefly: ignore[bad-override]
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group["matrix"]]
            super().step()
        finally:
            self.param_groups = groups
        momentum = self.defaults["momentum"]
        for group in (group for group in groups if group["matrix"]):
            for weight in (weight for weight in group["params"] if weight.grad is not None):
                state = self.state[weight]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(weight)
                velocity = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
                update = orthogonal(weight.grad.lerp(velocity, momentum))
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(update, alpha=0.2 * max(weight.shape) ** 0.5 * group["lr"])


def orthogonal(matrix: Float[Tensor, "m n"], steps: int = 5) -> Float[Tensor, "m n"]:
    """U Vᵀ of `matrix` = U S Vᵀ, roughly, by products alone (Newton and Schulz); in bfloat16 on a GPU."""
    x = matrix.bfloat16() if matrix.is_cuda else matrix
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.T
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x if wide else x.T).to(matrix.dtype)
