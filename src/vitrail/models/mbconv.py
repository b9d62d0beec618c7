"""MBConv, the convolutional half of a MaxViT block, as Google's TensorFlow code has it."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.conv_backbone import BatchNorm, conv_same
from vitrail.models.layers import stochastic_depth

EXPANSION = 4
"""Of MBConv and MLP alike."""
SQUEEZE = 0.25
"""Width of squeeze-and-excitation, as a part of the block's channels."""
BATCH_NORM_EPS = 1e-3


def gelu(x: Tensor) -> Tensor:
    """GELU by tanh, as TensorFlow computes it there."""
    return F.gelu(x, approximate="tanh")


class Conv(nn.Conv2d):
    """A convolution; one of stride 2 pads as TensorFlow does, for even sizes below and right."""

    def __init__(
        self, before: int, width: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, bias: bool = True
    ) -> None:
        super().__init__(before, width, kernel, stride, kernel // 2, groups=groups, bias=bias)

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        if self.stride[0] > 1:
            return conv_same(input, self.weight, self.bias, stride=self.stride[0], groups=self.groups)
        return super().forward(input)


class SqueezeExcite(nn.Module):
    """A gate per channel, from the mean over the map through two layers (arXiv 1709.01507)."""

    def __init__(self, width: int, squeezed: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        gate = self.expand(F.silu(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Shortcut(nn.Module):
    """The way around a block that halves the map: 2×2 means, then a 1×1 convolution where channels change."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.conv = Conv(before, width) if before != width else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        # at an odd edge, the mean of what there is
        return self.conv(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False))


class MBConv(nn.Module):
    """The inverted bottleneck: norm, 1×1 to 4 × the channels, depthwise 3×3 (with the stride), squeeze, 1×1 back."""

    def __init__(self, before: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        mid, eps = EXPANSION * width, BATCH_NORM_EPS
        self.pre_norm = BatchNorm(before, eps)
        self.expand, self.norm1 = Conv(before, mid, bias=False), BatchNorm(mid, eps)
        self.depthwise = Conv(mid, mid, 3, stride=stride, groups=mid, bias=False)
        self.norm2 = BatchNorm(mid, eps)
        self.squeeze = SqueezeExcite(mid, max(1, int(width * SQUEEZE)))
        self.shrink = Conv(mid, width)
        self.shortcut = Shortcut(before, width) if stride > 1 else nn.Identity()
        self.drop_path = stochastic_depth(drop_path)

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        y = gelu(self.norm1(self.expand(self.pre_norm(x))))
        y = self.squeeze(gelu(self.norm2(self.depthwise(y))))
        return self.shortcut(x) + self.drop_path(self.shrink(y))
