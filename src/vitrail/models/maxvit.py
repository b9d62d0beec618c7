"""MaxViT (arXiv 2204.01697): convolution, attention in windows, attention across a grid.

A block is MBConv → attention in windows → MLP → attention in a grid → MLP (section 3.2, figure 2), as Google's
TensorFlow code has it. The defaults are MaxViT-T.

Sizes need not divide: a map is padded below and right to whole windows, no token attends to the padding, and the
padding is cut off again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.models.backbone import FAMILIES, ModelConfig
from vitrail.models.checks import Grid, at_least, probabilities
from vitrail.models.conv_backbone import BatchNorm, MapBackbone, Parts
from vitrail.models.features import Features
from vitrail.models.layers import Mlp, attend, stochastic_depth
from vitrail.models.mbconv import BATCH_NORM_EPS, EXPANSION, Conv, MBConv, gelu

NORM_EPS = 1e-5
AXES = {"window": "(y p) (x q)", "grid": "(p y) (q x)"}
"""Rows and columns of a map of y × x windows of p × q tokens: neighbours, or every y-th row and x-th column."""


@dataclass(frozen=True, kw_only=True)
class MaxViTConfig(ModelConfig):
    """All that makes one MaxViT differ from another; the defaults are MaxViT-T at 224 pixels."""

    family: ClassVar[str] = "maxvit"
    depths: tuple[int, ...] = (2, 2, 5, 2)
    """Blocks of each stage; the first of each halves the map."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: tuple[int, int] = (64, 64)
    """Channels of the stem's two convolutions."""
    head_width: int = 32
    """d, features of one attention head."""
    image: tuple[int, int] = (224, 224)
    """Height and width it is meant for; any other works."""
    window: tuple[int, int] | None = None
    """Of window and grid attention. None: the size of the last map at `image`, as published: 7×7 at 224 pixels."""
    bias_window: tuple[int, int] | None = None
    """The window whose relative biases are stored, where they are resized to another at use. None: `window`."""
    channels: int = 3
    classes: int = 1000
    """K outputs of the head; 0 leaves the head out, and `forward` gives the pooled features."""
    pre_logits: int = 512
    """Width of the dense + tanh layer before the head; 0 leaves it out."""
    head_bias: float = 0.0
    """Start value of the head's bias; -log K suits sigmoid losses."""
    drop_path: float = 0.0
    """Stochastic depth: block b of n drops its branches with b/n of it."""

    def __post_init__(self) -> None:
        if len(self.depths) != len(self.widths) or not self.depths:
            found = f"{len(self.depths)} depths and {len(self.widths)} widths"
            raise ConfigError(found, allowed="one of each a stage")
        at_least(self, 1, "depths", "widths", "stem", "image", "channels", "head_width", "window", "bias_window")
        at_least(self, 0, "classes", "pre_logits")
        probabilities(self, "drop_path")
        if any(width % self.head_width for width in self.widths):
            raise ConfigError(f"widths = {self.widths}", allowed=f"multiples of head_width = {self.head_width}")

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Version 0.1.0 had other kinds of blocks and other codes' dialects too; Google's own are left out."""
        plain = not set(data.get("kinds", "M")) - {"M"}
        google = data.get("dialect", {}).get("conv_activation", "gelu-tanh") == "gelu-tanh"
        return {k: v for k, v in data.items() if k not in ("kinds", "dialect")} if plain and google else data

    @property
    def multiple(self) -> int:
        return 2 ** (len(self.depths) + 1)  # the stem halves the image, and each stage

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.widths[-1]

    @property
    def partition(self) -> Grid:
        """The window in use, (h, w)."""
        h, w = (-(-size // self.multiple) for size in self.image)
        return self.window or (h, w)

    @property
    def table_window(self) -> Grid:
        """The window whose relative biases the blocks store."""
        return self.bias_window or self.partition


class RelativeAttention(nn.Module):
    """Attention with a learned bias per head and offset (Δrow, Δcolumn) of key from query."""

    def __init__(self, width: int, head_width: int, window: Grid) -> None:
        super().__init__()
        self.heads = width // head_width
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.table = nn.Parameter(torch.empty(self.heads, 2 * window[0] - 1, 2 * window[1] - 1))

    def forward(
        self, x: Float[Tensor, "B N D"], window: Grid, real: Bool[Tensor, "M N"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """`real` says which tokens of each of M windows of an image are no padding; B is a multiple of M."""
        q, k, v = rearrange(self.qkv(x), "B N (three A d) -> B N three A d", three=3, A=self.heads).unbind(2)
        q, k, v = (rearrange(part, "B N A d -> B A N d") for part in (q, k, v))
        bias = relative_bias(self.table, window).to(q.dtype)
        if real is not None:
            bias = bias + torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, -torch.inf)[:, None, None]
            bias = bias.repeat(x.shape[0] // real.shape[0], 1, 1, 1)
        heads = attend(q, k, v, bias.expand(x.shape[0], -1, -1, -1))
        return self.proj(rearrange(heads, "B A N d -> B N (A d)"))


def relative_bias(table: Float[Tensor, "A y x"], window: Grid) -> Float[Tensor, "1 A N N"]:
    """The bias of every pair of tokens of a window: what the table has for key minus query, row by row."""
    h, w = window
    table = resize_bias(table, window)
    # slices of h × w, the first of which the last query sees
    pairs = table.unfold(1, h, 1).unfold(2, w, 1).flip(1, 2)
    return rearrange(pairs, "A h w y x -> 1 A (h w) (y x)")


def resize_bias(table: Float[Tensor, "A y x"], window: Grid) -> Float[Tensor, "A _ _"]:
    """The table made for another window: bilinear, as Google fine-tunes at a higher resolution (tf.image.resize)."""
    size = (2 * window[0] - 1, 2 * window[1] - 1)
    return table if table.shape[1:] == size else F.interpolate(table[None], size, mode="bilinear")[0]


class WindowBlock(nn.Module):
    """A pre-norm transformer block whose attention is sparse: in windows of neighbours, or in a grid across the map."""

    def __init__(self, config: MaxViTConfig, width: int, *, kind: Literal["window", "grid"], drop_path: float) -> None:
        super().__init__()
        self.kind, self.window = kind, config.partition
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=NORM_EPS), nn.LayerNorm(width, eps=NORM_EPS)
        self.attn = RelativeAttention(width, config.head_width, config.table_window)
        self.mlp = Mlp(width, EXPANSION * width, activation="gelu-tanh")
        self.drop_path1, self.drop_path2 = stochastic_depth(drop_path), stochastic_depth(drop_path)

    def forward(self, x: Float[Tensor, "B D h w"]) -> Float[Tensor, "B D h w"]:
        h, w = x.shape[2:]
        below, right = -h % self.window[0], -w % self.window[1]
        real = None
        if below or right:
            inside = F.pad(torch.ones(1, 1, h, w, device=x.device, dtype=torch.bool), (0, right, 0, below))
            real = self.cut(inside)[0, :, :, 0]
            x = F.pad(x, (0, right, 0, below))
        tokens = self.cut(x)
        y = self.attn(self.norm1(tokens).flatten(0, 1), self.window, real)
        tokens = tokens + self.drop_path1(y.view_as(tokens))
        tokens = tokens + self.drop_path2(self.mlp(self.norm2(tokens).flatten(0, 1)).view_as(tokens))
        return self.join(tokens, (h + below, w + right))[:, :, :h, :w]

    def cut(self, x: Tensor) -> Tensor:
        """A map in windows: B D h w → B windows tokens D. A grid's windows take every (h/p)-th row, (w/q)-th column."""
        p, q = self.window
        return rearrange(x, f"B D {AXES[self.kind]} -> B (y x) (p q) D", p=p, q=q)

    def join(self, tokens: Tensor, grid: Grid) -> Tensor:
        """`cut` undone: B windows tokens D → B D h w, its channels last in memory."""
        p, q = self.window
        x = rearrange(tokens, f"B (y x) (p q) D -> B {AXES[self.kind]} D", p=p, q=q, y=grid[0] // p)
        return rearrange(x, "B h w D -> B D h w")


class MaxViTBlock(nn.Sequential):
    """M: convolution, then both attentions (figure 2)."""

    def __init__(self, config: MaxViTConfig, before: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv = MBConv(before, width, stride=stride, drop_path=drop_path)
        self.attn_window = WindowBlock(config, width, kind="window", drop_path=drop_path)
        self.attn_grid = WindowBlock(config, width, kind="grid", drop_path=drop_path)


class Stem(nn.Module):
    """Two 3×3 convolutions, the first of stride 2."""

    def __init__(self, config: MaxViTConfig) -> None:
        super().__init__()
        first, second = config.stem
        self.conv1 = Conv(config.channels, first, 3, stride=2)
        self.norm = BatchNorm(first, BATCH_NORM_EPS)
        self.conv2 = Conv(first, second, 3)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D _ _"]:
        # what attention reads is what a convolution then keeps in memory order; `contiguous` would leave one channel as it is
        images = images.to(memory_format=torch.channels_last)
        return self.conv2(gelu(self.norm(self.conv1(images))))


@FAMILIES.register("maxvit")
class MaxViT(MapBackbone[MaxViTConfig]):
    """Backbone of MaxViT. `vitrail.build` makes one with initialised weights; the constructor draws none."""

    Config = MaxViTConfig

    def __init__(self, config: MaxViTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(nn.ModuleList(blocks) for blocks in _blocks(config))
        self.norm = nn.LayerNorm(config.width, NORM_EPS)
        self.pre_logits = nn.Linear(config.width, config.pre_logits) if config.pre_logits else None
        read = config.pre_logits or config.width
        self.head = nn.Linear(read, config.classes) if config.classes else nn.Identity()

    def ends(self) -> tuple[Parts, Parts]:
        return (self.stem,), (self.norm, self.pre_logits, self.head)

    def attention_layers(self) -> list[tuple[str, nn.Module]]:
        """The blocks whose tokens attend in windows or in a grid."""
        return [(name, part) for name, part in self.named_modules() if isinstance(part, WindowBlock)]

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """The mean over the map, normed, through the dense + tanh layer. The head and every probe read it."""
        pooled = self.norm(super().pool(features))
        return torch.tanh(self.pre_logits(pooled)) if self.pre_logits is not None else pooled

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The original's start: every kernel and bias table N(0, 0.02), biases 0, norms 1; unit statistics."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                layer.weight.normal_(std=0.02, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.LayerNorm):
                layer.weight.fill_(1.0)
                layer.bias.zero_()
            elif isinstance(layer, BatchNorm):
                layer.initialise()
            elif isinstance(layer, RelativeAttention):
                layer.table.normal_(std=0.02, generator=generator)
        self.initialise_head()


def _blocks(config: MaxViTConfig) -> Iterator[list[nn.Module]]:
    """The blocks of each stage; the first of each halves the map."""
    before, number, total = config.stem[1], 0, sum(config.depths)
    for depth, width in zip(config.depths, config.widths, strict=True):
        blocks: list[nn.Module] = []
        for index in range(depth):
            drop_path = config.drop_path * number / total
            blocks.append(MaxViTBlock(config, before, width, stride=1 if index else 2, drop_path=drop_path))
            before, number = width, number + 1
        yield blocks
