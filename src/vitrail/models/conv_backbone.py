"""Shared by the families of convolutions: tokens are the positions of the last map; SAME padding; BatchNorm."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail.models.backbone import Backbone, C, Stage
from vitrail.models.checks import check_images
from vitrail.models.features import Features

Parts = Sequence[nn.Module | None]


class MapBackbone(Backbone[C]):
    """A backbone whose last map is its features. A family has `stem`, `blocks` and `head`."""

    stem: Any
    blocks: nn.ModuleList
    unit_name = "stage {} block {}"

    def ends(self) -> tuple[Parts, Parts]:
        """The parts before the blocks and after them: the stages of stem and head."""
        raise NotImplementedError

    def units(self) -> Iterator[tuple[str, nn.Module]]:
        """Every block in order, with its name: both numbers count from 1."""
        for s, stage in enumerate(self.blocks, 1):
            for b, block in enumerate(stage.children(), 1):
                yield self.unit_name.format(s, b), block

    def map(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The last map, for images of any height and width."""
        check_images(images, self.config.channels)
        x = self.stem(images)
        for _, block in self.units():
            if self.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, context_fn=lambda: (nullcontext(), _still(self)))
            else:
                x = block(x)
        return self.finish(x)

    def finish(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """The layers between the blocks and pooling."""
        return x

    def features(self, images: Float[Tensor, "B C H W"]) -> Features:
        """The positions of the last map as tokens."""
        x = self.map(images)
        return Features(rearrange(x, "B D h w -> B (h w) D"), 0, (x.shape[2], x.shape[3]))

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """The mean over the map. The head and every probe read it."""
        return features.patches.mean(dim=1)

    def stages(self) -> Sequence[Stage]:
        """Stem, one stage a block, head: every parameter in exactly one."""
        stem, head = ([part for part in parts if part is not None] for parts in self.ends())
        return [("stem", stem), *((name, [block]) for name, block in self.units()), ("head", head)]


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
def _still(model: nn.Module) -> Iterator[None]:
    """While activations are recomputed, running statistics stand still: the batch has been counted already."""
    norms = [layer for layer in model.modules() if isinstance(layer, BatchNorm)]
    for norm in norms:
        norm.moves = False
    try:
        yield
    finally:
        for norm in norms:
            norm.moves = True


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's SAME: (before, after), so that ⌈size / stride⌉ positions come out; the odd one goes after."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def conv_same(
    x: Float[Tensor, "B C h w"],
    weight: Float[Tensor, "D G p q"],
    bias: Tensor | None = None,
    *,
    stride: int = 1,
    groups: int = 1,
) -> Float[Tensor, "B D _ _"]:
    """A convolution with SAME padding."""
    (top, bottom), (left, right) = (same_padding(x.shape[i], weight.shape[i], stride) for i in (2, 3))
    if (top, left) != (bottom, right):  # F.conv2d itself pads both sides alike
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    return F.conv2d(x, weight, bias, stride=stride, padding=(top, left), groups=groups)
