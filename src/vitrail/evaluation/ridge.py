"""Ridge regression on frozen features: the head that fine-tuning on numbers starts from."""

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.evaluation.logistic import Fit

STRENGTHS = tuple(10.0 ** (step / 2) for step in range(-10, 7))
"""λ over the mean of the squared singular values."""


def ridge(features: Float[Tensor, "N D"], targets: Float[Tensor, "N 1"]) -> tuple[Fit, float]:
    """min ‖XW + b - y‖² + λ‖W‖² with the λ of the smallest leave-one-out error; and that mean |error|.

    Leaving out image i changes its answer by a closed form: its error is e_i / (1 - h_i), with the hat matrix
    H = X(XᵀX + λ)⁻¹Xᵀ + 1/N of centred X (Golub, Heath and Wahba 1979). The Fit's `c` is λ.
    """
    x, y = features.double(), targets.double()
    mean, middle = x.mean(0), y.mean(0)
    u, s, vt = torch.linalg.svd(x - mean, full_matrices=False)
    inside, scale = u.T @ (y - middle), float(s.square().mean())
    fits = {strength: _fit(strength * scale, u, s, inside, y - middle) for strength in STRENGTHS}
    best = min(fits, key=lambda strength: float(fits[strength][0].square().mean()))
    error, coefficients = fits[best]
    weight = vt.T @ coefficients
    return Fit(best * scale, weight, middle - mean @ weight, True), float(error.abs().mean())


def _fit(
    decay: float, u: Float[Tensor, "N R"], s: Float[Tensor, "R"], inside: Float[Tensor, "R 1"], y: Float[Tensor, "N 1"]
) -> tuple[Float[Tensor, "N"], Float[Tensor, "R 1"]]:
    """(errors of the images left out, coefficients of the singular vectors) with one λ."""
    shrink = s.square() / (s.square() + decay)
    hat = (u.square() @ shrink + 1 / len(y)).clamp(max=1 - 1e-6)
    error = (y - u @ (shrink[:, None] * inside))[:, 0] / (1 - hat)
    return error, (shrink / s.clamp(min=1e-12))[:, None] * inside
