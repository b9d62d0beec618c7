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
        for group in (group for group in groups if group["matrix"]):
            self._step_matrices(group)

    def _step_matrices(self, group: dict[str, Any]) -> None:
        """Matrices of one shape are made orthogonal together: small ones take as long to call as to compute."""
        shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        momentum = self.defaults["momentum"]
        for weight in (weight for weight in group["params"] if weight.grad is not None):
            state = self.state[weight]
            if not state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            velocity = state["momentum_buffer"].lerp_(weight.grad, 1 - momentum)
            shapes.setdefault(weight.shape, []).append((weight, weight.grad.lerp(velocity, momentum)))
        for shape, pairs in shapes.items():
            steps = orthogonal(torch.stack([update for _, update in pairs]))
            for (weight, _), step in zip(pairs, steps, strict=True):
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(step, alpha=0.2 * max(shape) ** 0.5 * group["lr"])


def orthogonal(matrices: Float[Tensor, "*K m n"], steps: int = 5) -> Float[Tensor, "*K m n"]:
    """U Vᵀ of each matrix U S Vᵀ, roughly, by products alone (Newton and Schulz); in bfloat16 on a GPU."""
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        square = x @ x.mT
        x = _A * x + (_B * square + _C * square @ square) @ x
    return (x if wide else x.mT).to(matrices.dtype)
