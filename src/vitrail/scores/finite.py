"""Answers and features must be finite numbers."""

from collections.abc import Sequence

import torch
from jaxtyping import Shaped
from torch import Tensor

from vitrail.errors import NonFiniteError


def check_finite(
    rows: Shaped[Tensor, "N ..."], keys: Sequence[str] | None = None, what: str = "the model's answers to"
) -> None:
    """Raises NonFiniteError for images with NaN or infinity in their row; it names the first by its key or its number."""
    wrong = (~torch.isfinite(rows[:, None])).flatten(1).any(1).nonzero()[:, 0].tolist()
    if wrong:
        first = f" in row {wrong[0]}" if keys is None else f": {keys[wrong[0]]}"
        raise NonFiniteError(
            f"{what} {len(wrong)} of {len(rows)} images are not finite, the first{first}",
            next_step="check the model's weights, or use `precision='fp32'`",
        )
