"""BiT's ResNet (arXiv 1912.11370): weight-standardised convolutions and GroupNorm, where other ResNets have BatchNorm.

The bottleneck comes in two orders. "pre", ResNet-v2, is the ViT paper's baseline "ResNet (BiT)"; "post", ResNet-v1, is
the stem of its hybrids. Where the published codes disagree there is an option: `padding`, `standardise`, both epsilons.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.models.backbone import FAMILIES, ModelConfig
from vitrail.models.checks import Grid, at_least, epsilons
from vitrail.models.conv_backbone import MapBackbone, Parts, conv_same, same_padding
from vitrail.models.initialise import lecun_normal_

GROUPS = 32
Padding = Literal["bit", "symmetric", "same"]
Standardise = Literal["variance", "deviation"]


@dataclass(frozen=True, kw_only=True)
class ResNetConfig(ModelConfig):
    """All that makes one ResNet differ from another; the defaults are BiT's R50x1."""

    family: ClassVar[str] = "resnet"
    depths: tuple[int, ...] = (3, 4, 6, 3)
    """Units of each stage; every stage but the first halves the map."""
    widths: tuple[int, ...] = (256, 512, 1024, 2048)
    """Channels each stage gives; a unit's 3×3 convolution has a quarter of them."""
    root_width: int = 64
    image: tuple[int, int] = (224, 224)
    """Height and width it is meant for; any other works."""
    channels: int = 3
    classes: int = 1000
    """K outputs of the head; 0 leaves the head out, and `forward` gives the pooled features."""
    order: Literal["pre", "post"] = "pre"
    """Norm and ReLU before each convolution (v2, one more norm at the end), or after it (v1)."""
    padding: Padding = "bit"
    """`bit`: the same on all sides, the root's max-pool with ZEROS (big_transfer, timm); `symmetric`: there with -inf
    (big_vision's bit_paper); `same`: TensorFlow's, more below and right, depending on the size of the map."""
    standardise: Standardise = "variance"
    """The place of ε: √(var + ε) in BiT (ε 1e-10) and timm (1e-8); σ + ε in the hybrids (1e-5)."""
    standardise_eps: float = 1e-10
    norm_eps: float = 1e-5
    head_bias: float = 0.0
    """Start value of the head's bias; -log K suits sigmoid losses."""

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths):
            raise ConfigError(f"{len(self.depths)} depths and {len(self.widths)} widths", allowed="one of each a stage")
        at_least(self, 1, "root_width", "channels", "depths", "widths")
        epsilons(self, "standardise_eps", "norm_eps")
        at_least(self, 0, "classes")
        if self.root_width % GROUPS or any(width < 1 or width % (4 * GROUPS) for width in self.widths):
            raise ConfigError(
                f"root_width = {self.root_width} and widths = {self.widths}",
                allowed=f"multiples of {GROUPS} and of {4 * GROUPS}: each norm has {GROUPS} groups",
            )

    @property
    def multiple(self) -> int:
        return self.stride

    @property
    def exports_any_size(self) -> bool:
        return self.padding != "same"  # the padding of "same" depends on the size

    @property
    def stride(self) -> int:
        """Pixels to a position of the last map: 4 for the root, twice that with each stage but the first."""
        return 4 * 2 ** max(0, len(self.depths) - 1)

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return (self.root_width, *self.widths)[-1]

    def grid(self, image: tuple[int, int]) -> Grid:
        """(h, w) of the last map for an image of H×W pixels."""
        return math.ceil(image[0] / self.stride), math.ceil(image[1] / self.stride)


class StandardisedConv(nn.Module):
    """A convolution without bias whose filters have mean 0, variance 1: weight standardisation (arXiv 1903.10520)."""

    def __init__(self, config: ResNetConfig, before: int, width: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.stride, self.same = stride, config.padding == "same"
        self.form, self.eps = config.standardise, config.standardise_eps
        self.weight = nn.Parameter(torch.empty(width, before, kernel, kernel))

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        weight = standardise_filters(self.weight, self.form, self.eps)
        if self.same:
            return conv_same(x, weight, stride=self.stride)
        return F.conv2d(x, weight, stride=self.stride, padding=weight.shape[2] // 2)


def standardise_filters(weight: Float[Tensor, "D C p q"], form: Standardise, eps: float) -> Float[Tensor, "D C p q"]:
    """Each filter less its mean, over √(var + ε) or σ + ε, with the population's variance."""
    if form == "variance":
        return F.layer_norm(weight, weight.shape[1:], eps=eps)
    return Deviation.apply(weight.flatten(1), eps).view_as(weight)


class Deviation(torch.autograd.Function):
    """(w - mean) / (σ + ε) of each row.

    torch's std takes 40 times as long on a CPU as its layer norm. `layer_norm` returns σ but not its gradient, so we
    write the backward pass: k (g - mean g - o · mean(g o) / c), with the output o, c = σ / (σ + ε), k = 1 / (σ + ε).
    """

    @staticmethod
    def forward(ctx: Any, rows: Float[Tensor, "D n"], eps: float) -> Float[Tensor, "D n"]:
        normed, _, inverse = torch.native_layer_norm(rows, rows.shape[1:], None, None, 1e-30)  # inverse: 1 / σ
        c = 1 / (1 + eps * inverse)
        o = normed.mul_(c)
        ctx.save_for_backward(o, c, c * inverse)
        return o

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (o, c, k), g = ctx.saved_tensors, grads[0]
        along = (g * o).mean(1, keepdim=True) / c
        return (g - g.mean(1, keepdim=True)).addcmul_(o, along, value=-1).mul_(k), None


class Bottleneck(nn.Module):
    """A residual unit: 1×1 to a quarter of the width, 3×3 (with the stride), 1×1 back."""

    def __init__(self, config: ResNetConfig, before: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.order = config.order
        mid = width // 4
        self.conv1 = StandardisedConv(config, before, mid, 1)
        self.conv2 = StandardisedConv(config, mid, mid, 3, stride=stride)
        self.conv3 = StandardisedConv(config, mid, width, 1)
        normed = (before, mid, mid) if config.order == "pre" else (mid, mid, width)
        self.norm1, self.norm2, self.norm3 = (group_norm(config, channels) for channels in normed)
        changes = stride > 1 or before != width
        self.shortcut = StandardisedConv(config, before, width, 1, stride=stride) if changes else None
        self.shortcut_norm = group_norm(config, width) if changes and config.order == "post" else None

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        return self._pre(x) if self.order == "pre" else self._post(x)

    def _pre(self, x: Tensor) -> Tensor:
        y = relu(self.norm1(x))
        if self.shortcut is not None:
            x = self.shortcut(y)
        y = self.conv1(y)
        y = self.conv2(relu(self.norm2(y)))
        return x + self.conv3(relu(self.norm3(y)))

    def _post(self, x: Tensor) -> Tensor:
        y = relu(self.norm1(self.conv1(x)))
        y = relu(self.norm2(self.conv2(y)))
        y = self.norm3(self.conv3(y))
        if self.shortcut is not None:
            assert self.shortcut_norm is not None
            x = self.shortcut_norm(self.shortcut(x))
        return relu(x + y)


class GroupNorm(nn.GroupNorm):
    """GroupNorm that accepts one value for each group (torch raises); the result is the bias."""

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(config: ResNetConfig, width: int) -> GroupNorm:
    return GroupNorm(GROUPS, width, eps=config.norm_eps)


def relu(x: Tensor) -> Tensor:
    """ReLU in place. Its input is the output of a norm or a sum, which no backward pass needs."""
    return F.relu(x, inplace=True)


@FAMILIES.register("resnet")
class ResNet(MapBackbone[ResNetConfig]):
    """Backbone of the ResNets. `vitrail.build` makes one with initialised weights; the constructor draws none."""

    Config = ResNetConfig
    unit_name = "block {} unit {}"  # as in the published files

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        self.root = StandardisedConv(config, config.channels, config.root_width, 7, stride=2)
        self.root_norm = group_norm(config, config.root_width) if config.order == "post" else None
        self.blocks = nn.ModuleList()
        before = config.root_width
        for stage, (depth, width) in enumerate(zip(config.depths, config.widths, strict=True)):
            first = Bottleneck(config, before, width, stride=2 if stage else 1)
            rest = [Bottleneck(config, width, width, stride=1) for _ in range(depth - 1)]
            self.blocks.append(nn.ModuleList([first, *rest]))
            before = width
        self.norm = group_norm(config, before) if config.order == "pre" else None
        self.head = nn.Linear(before, config.classes) if config.classes else nn.Identity()

    def ends(self) -> tuple[Parts, Parts]:
        return (self.root, self.root_norm), (self.norm, self.head)

    def stem(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The root: a 7×7 convolution and a max-pool, each of stride 2."""
        x = self.root(images)
        if self.root_norm is not None:
            x = relu(self.root_norm(x))
        if self.config.padding == "bit":
            return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, stride=2)
        if self.config.padding == "symmetric":
            return F.max_pool2d(x, 3, stride=2, padding=1)
        (top, bottom), (left, right) = (same_padding(size, 3, 2) for size in x.shape[2:])
        return F.max_pool2d(F.pad(x, (left, right, top, bottom), value=-torch.inf), 3, stride=2)

    def finish(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return relu(self.norm(x)) if self.norm is not None else x

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The original's start: LeCun normal kernels (their scale matters only next to ε); v1's units as identities."""
        for layer in self.modules():
            if isinstance(layer, StandardisedConv):
                lecun_normal_(layer.weight, generator)
            elif isinstance(layer, nn.GroupNorm):
                layer.weight.fill_(1.0)
                layer.bias.zero_()
        for layer in self.modules():
            if isinstance(layer, Bottleneck) and layer.order == "post":
                layer.norm3.weight.zero_()
        self.initialise_head()
