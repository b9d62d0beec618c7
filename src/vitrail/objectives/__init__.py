"""What a model learns from: the one thing that differs between ways of training.

An objective is a callable `(model, batch, generator) -> Loss`. It knows nothing of devices, DDP, EMA, precision or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """The scalar to minimise (a mean over images), and named numbers to show beside it (detached scalars, means over images)."""

    value: Float[Tensor, ""]
    report: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)
