"""Temperature scaling: one number, learnt on held-out images, that makes a classifier's probabilities honest.

Guo et al. 2017, "On calibration of modern neural networks", section 4.2. Answers, hence accuracy, stay as they are.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError, NonFiniteError

_RANGE = (1e-3, 1e3)


def fit_temperature(logits: Float[Tensor, "N K"], targets: Int[Tensor, "M"]) -> float:
    """The T that minimises the NLL of softmax(logits / T), by bisection: in β = 1 / T the NLL is convex.

    Its slope is the mean of Σ_k p_k z_k - z_y. T is kept within 0.001 to 1000: where every answer is right, any
    smaller T is better still. Raises DataError without images, NonFiniteError for logits that are not finite."""
    if not len(targets) or len(targets) != len(logits):
        raise DataError(f"{len(logits)} answers and {len(targets)} labels", allowed="as many of both, at least one")
    if not torch.isfinite(logits).all():
        raise NonFiniteError("the model's answers are not finite numbers", next_step="check its weights")
    logits = logits.double()
    own = logits.gather(1, targets.long()[:, None])[:, 0].mean()

    def slope(beta: float) -> float:
        return float(((logits * beta).softmax(1) * logits).sum(1).mean() - own)

    low, high = 1 / _RANGE[1], 1 / _RANGE[0]
    for _ in range(60):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 1 / (low * high) ** 0.5
