"""MBConv, the convolutional half of MaxViT and CoAtNet, and what the published codes of both do differently."""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.conv_backbone import BatchNorm, conv_same
from vitrail.models.layers import ACTIVATIONS, DropPath

CONV_ACTIVATIONS = {**ACTIVATIONS, "relu": nn.ReLU()}
EXPANSION = 4  # of MBConv and MLP alike, in every published model


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """What the published codes do differently; the defaults are Google's."""

    padding: Literal["same", "symmetric"] = "same"
    """Of 3×3 convolutions of stride 2: TensorFlow's, for even sizes one row below and right; or one on all sides."""
    stem_bias: tuple[bool, bool] = (True, True)
    conv_bias: bool = True
    """Whether a block's last convolution and its shortcut have one."""
    map_shortcut_bias: bool | None = None
    """Whether the shortcut of CoAtNet's transformer blocks has one. None: as `conv_bias`."""
    conv_activation: Literal["gelu-tanh", "gelu", "silu"] = "gelu-tanh"
    pre_activation: bool = False
    """Whether an activation follows MBConv's first norm."""
    stride: Literal["depthwise", "pool"] = "depthwise"
    """How MBConv halves the map: by its 3×3 convolution, or by 2×2 means before its first."""
    expand_from: Literal["output", "input"] = "output"
    """Whose channels MBConv has four times as many of inside."""
    squeeze: float = 0.25
    """Width of squeeze-and-excitation, as a part of the channels in `expand_from`."""
    squeeze_activation: Literal["silu", "relu"] = "silu"
    squeeze_first: bool = False
    """Squeeze-and-excitation before the depthwise convolution's norm, not after its activation."""
    shortcut: Literal["pool 2", "pool 3"] = "pool 2"
    """Average pooling of 2×2, then 1×1 where the channels change; or of 3×3 with zeros around, then always 1×1."""
    batch_norm_eps: float = 1e-3
    activation: Literal["gelu-tanh", "gelu"] = "gelu-tanh"
    norm: Literal["layer", "batch"] = "layer"
    """Of CoAtNet's transformer blocks, and the last one."""
    norm_eps: float = 1e-5
    layer_scale: bool = False
    """Whether CoAtNet's transformer blocks have a learned factor per channel on each branch."""
    scale: Literal["head", "width"] = "head"
    """Logits are q kᵀ over √d, d of a head; or over √D of all heads."""
    final_norm: Literal["pooled", "tokens"] = "pooled"
    """The last norm: on the pooled vector, or on the map before pooling."""
    head_bias: bool = True


GOOGLE = Dialect()
TORCHVISION = Dialect(
    padding="symmetric", stem_bias=(False, True), conv_activation="gelu", shortcut="pool 3", activation="gelu",
    scale="width", head_bias=False,
)  # fmt: skip
TIMM_MAXVIT = Dialect(
    padding="symmetric", stem_bias=(False, False), conv_bias=False, conv_activation="silu", expand_from="input",
    batch_norm_eps=1e-5, activation="gelu", norm_eps=1e-6, final_norm="tokens",
)  # fmt: skip
TIMM_COATNET = Dialect(
    padding="symmetric", stem_bias=(False, False), conv_bias=False, conv_activation="silu", pre_activation=True,
    expand_from="input", squeeze=1.0, squeeze_activation="relu", squeeze_first=True, batch_norm_eps=1e-5,
    activation="gelu", norm="batch", norm_eps=1e-6, final_norm="tokens",
)  # fmt: skip


class Conv(nn.Conv2d):
    """A convolution that pads as its dialect does."""

    def __init__(
        self,
        dialect: Dialect,
        before: int,
        width: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        bias: bool,
    ) -> None:
        super().__init__(before, width, kernel, stride, kernel // 2, groups=groups, bias=bias)
        self.same = stride > 1 and dialect.padding == "same"

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        if self.same:
            return conv_same(input, self.weight, self.bias, stride=self.stride[0], groups=self.groups)
        return super().forward(input)


class SqueezeExcite(nn.Module):
    """A gate per channel, from the mean over the map through two layers (arXiv 1709.01507)."""

    def __init__(self, width: int, squeezed: int, activation: str) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)
        self.act = CONV_ACTIVATIONS[activation]

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class Shortcut(nn.Module):
    """The way around a block that halves the map: average pooling, then a 1×1 convolution where channels change."""

    def __init__(self, dialect: Dialect, before: int, width: int, *, bias: bool | None = None) -> None:
        super().__init__()
        self.pool = dialect.shortcut
        changes = before != width or self.pool == "pool 3"
        bias = dialect.conv_bias if bias is None else bias
        self.conv = Conv(dialect, before, width, bias=bias) if changes else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        return self.conv(F.avg_pool2d(x, 3, 2, padding=1) if self.pool == "pool 3" else pool2(x))


def pool2(x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C _ _"]:
    """2×2 means; at an odd edge, of what there is."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


class MBConv(nn.Module):
    """The inverted bottleneck: norm, 1×1 to 4 × the channels, depthwise 3×3 (with the stride), squeeze, 1×1 back."""

    def __init__(self, dialect: Dialect, before: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        base = width if dialect.expand_from == "output" else before
        mid, eps = EXPANSION * base, dialect.batch_norm_eps
        self.dialect, self.act = dialect, CONV_ACTIVATIONS[dialect.conv_activation]
        self.pre_norm = BatchNorm(before, eps)
        self.expand, self.norm1 = Conv(dialect, before, mid, bias=False), BatchNorm(mid, eps)
        self.pool = pool2 if stride > 1 and dialect.stride == "pool" else nn.Identity()
        self.depthwise = Conv(dialect, mid, mid, 3, stride=1 if self.pool is pool2 else stride, groups=mid, bias=False)
        self.norm2 = BatchNorm(mid, eps)
        self.squeeze = SqueezeExcite(mid, max(1, int(base * dialect.squeeze)), dialect.squeeze_activation)
        self.shrink = Conv(dialect, mid, width, bias=dialect.conv_bias)
        self.shortcut = Shortcut(dialect, before, width) if stride > 1 else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        y = self.pre_norm(x)
        if self.dialect.pre_activation:
            y = self.act(y)
        y = self.depthwise(self.act(self.norm1(self.expand(self.pool(y)))))
        first = self.dialect.squeeze_first
        y = self.act(self.norm2(self.squeeze(y))) if first else self.squeeze(self.act(self.norm2(y)))
        return self.shortcut(x) + self.drop_path(self.shrink(y))
