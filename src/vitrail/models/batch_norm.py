"""BatchNorm (arXiv 1502.03167) for models with convolutions."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """BatchNorm without `num_batches_tracked`: the state then holds floats only."""

    def __init__(self, width: int, eps: float, momentum: float = 0.01) -> None:
        super().__init__()
        self.eps, self.momentum, self.moves = eps, momentum, True
        self.weight, self.bias = nn.Parameter(torch.empty(width)), nn.Parameter(torch.empty(width))
        self.register_buffer("running_mean", torch.empty(width))
        self.register_buffer("running_var", torch.empty(width))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        momentum = self.momentum if self.moves else 0.0
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, momentum, self.eps
        )

    def initialise(self) -> None:
        """Unit scale and statistics, called without gradients."""
        self.weight.fill_(1.0)
        self.running_var.fill_(1.0)
        self.bias.zero_()
        self.running_mean.zero_()


@contextmanager
def still(model: nn.Module) -> Iterator[None]:
    """While activations are recomputed, running statistics stand still: the batch has been counted already."""
    norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    for norm in norms:
        norm.moves = False
    try:
        yield
    finally:
        for norm in norms:
            norm.moves = True
