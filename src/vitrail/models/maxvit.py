"""MaxViT (arXiv 2204.01697): convolution, attention in windows, attention across a grid; CoAtNet of the same parts.

A block is MBConv → attention in windows → MLP → attention in a grid → MLP (section 3.2, figure 2). The defaults are
MaxViT-T as Google's TensorFlow code has it. What other codes do otherwise stands in `mbconv.Dialect`.

Sizes need not divide: a map is padded below and right to whole windows, no token attends to the padding, and the
padding is cut off again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.models.backbone import FAMILIES, ModelConfig
from vitrail.models.checks import Grid, at_least, probabilities
from vitrail.models.conv_backbone import BatchNorm, MapBackbone, Parts
from vitrail.models.features import Features
from vitrail.models.layers import DropPath, LayerScale, Mlp, attend
from vitrail.models.mbconv import CONV_ACTIVATIONS, EXPANSION, GOOGLE, Conv, Dialect, MBConv, Shortcut, pool2


@dataclass(frozen=True, kw_only=True)
class MaxViTConfig(ModelConfig):
    """All that makes one MaxViT differ from another; the defaults are MaxViT-T at 224 pixels."""

    family: ClassVar[str] = "maxvit"
    depths: tuple[int, ...] = (2, 2, 5, 2)
    """Blocks of each stage; the first of each halves the map."""
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: tuple[int, int] = (64, 64)
    """Channels of the stem's two convolutions."""
    kinds: str = "MMMM"
    """What the blocks of each stage are: M MaxViT's, C convolution alone (MBConv), T attention over the whole map."""
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
    dialect: Dialect = GOOGLE

    def __post_init__(self) -> None:
        stages = {len(self.depths), len(self.widths), len(self.kinds)}
        if len(stages) != 1 or not self.depths:
            found = f"{len(self.depths)} depths, {len(self.widths)} widths and {len(self.kinds)} kinds"
            raise ConfigError(found, allowed="one of each a stage")
        if set(self.kinds) - set("MCT"):
            raise ConfigError(f"kinds = {self.kinds!r}", allowed="M, C and T")
        at_least(self, 1, "depths", "widths", "stem", "image", "channels", "head_width", "window", "bias_window")
        at_least(self, 0, "classes", "pre_logits")
        probabilities(self, "drop_path")
        for kind, before, width in zip(self.kinds, (self.stem[1], *self.widths), self.widths, strict=False):
            if any(size % self.head_width for size in {"M": (width,), "T": (before, width), "C": ()}[kind]):
                raise ConfigError(f"widths = {self.widths}", allowed=f"multiples of head_width = {self.head_width}")

    @property
    def multiple(self) -> int:
        return 2 ** (len(self.depths) + 1)  # the stem halves the image, and each stage

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return self.widths[-1]

    def map_at(self, stage: int) -> Grid:
        """(h, w) of the map a stage gives at `image`."""
        h, w = (-(-size // 2 ** (stage + 2)) for size in self.image)
        return h, w

    @property
    def partition(self) -> Grid:
        """The window in use, (h, w)."""
        return self.window or self.map_at(len(self.depths) - 1)

    def table_window(self, stage: int) -> Grid:
        """The window whose relative biases a block of this stage stores; T's is the whole map at `image`."""
        return self.map_at(stage) if self.kinds[stage] == "T" else self.bias_window or self.partition


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, input: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return super().forward(input.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class RelativeAttention(nn.Module):
    """Attention with a learned bias per head and offset (Δrow, Δcolumn) of key from query."""

    def __init__(self, config: MaxViTConfig, width: int, out: int, window: Grid) -> None:
        super().__init__()
        self.heads = width // config.head_width
        self.scale = (config.head_width / width) ** 0.5 if config.dialect.scale == "width" else 1.0
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, out)
        self.table = nn.Parameter(torch.empty(self.heads, 2 * window[0] - 1, 2 * window[1] - 1))

    def forward(
        self, x: Float[Tensor, "B N D"], window: Grid, real: Bool[Tensor, "M N"] | None = None
    ) -> Float[Tensor, "B N _"]:
        """`real` says which tokens of each of M windows of an image are no padding; B is a multiple of M."""
        q, k, v = (part.transpose(1, 2) for part in self.qkv(x).unflatten(2, (3, self.heads, -1)).unbind(2))
        bias = relative_bias(self.table, window).to(q.dtype)
        if real is not None:
            bias = bias + torch.zeros_like(real, dtype=q.dtype).masked_fill(~real, -torch.inf)[:, None, None]
            bias = bias.repeat(x.shape[0] // real.shape[0], 1, 1, 1)
        x = attend(q * self.scale if self.scale != 1 else q, k, v, bias.expand(x.shape[0], -1, -1, -1))
        return self.proj(x.transpose(1, 2).flatten(2))


def relative_bias(table: Float[Tensor, "A y x"], window: Grid) -> Float[Tensor, "1 A N N"]:
    """The bias of every pair of tokens of a window: what the table has for key minus query, row by row."""
    h, w = window
    table = resize_bias(table, window)
    # slices of h × w, the first of which the last query sees
    pairs = table.unfold(1, h, 1).unfold(2, w, 1).flip(1, 2)  # A h w h w
    return pairs.flatten(3).flatten(1, 2)[None]


def resize_bias(table: Float[Tensor, "A y x"], window: Grid) -> Float[Tensor, "A _ _"]:
    """The table made for another window: bilinear, as Google fine-tunes at a higher resolution (tf.image.resize)."""
    size = (2 * window[0] - 1, 2 * window[1] - 1)
    return table if table.shape[1:] == size else F.interpolate(table[None], size, mode="bilinear")[0]


class WindowBlock(nn.Module):
    """A pre-norm transformer block whose attention is sparse: in windows of neighbours, or in a grid across the map."""

    def __init__(self, config: MaxViTConfig, width: int, *, kind: Literal["window", "grid"], drop_path: float) -> None:
        super().__init__()
        self.kind, self.window = kind, config.partition
        eps, activation = config.dialect.norm_eps, config.dialect.activation
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.attn = RelativeAttention(config, width, width, config.bias_window or config.partition)
        self.mlp = Mlp(width, EXPANSION * width, activation=activation)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

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
        tokens = tokens + self.drop_path(y.view_as(tokens))
        tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens).flatten(0, 1)).view_as(tokens))
        return self.join(tokens, (h + below, w + right))[:, :, :h, :w]

    def cut(self, x: Tensor) -> Tensor:
        """A map in windows: B D h w → B windows tokens D. A grid's windows take every (h/p)-th row, (w/q)-th column."""
        p, q = self.window
        if self.kind == "window":
            parts = x.unflatten(3, (-1, q)).unflatten(2, (-1, p)).permute(0, 2, 4, 3, 5, 1)
        else:
            parts = x.unflatten(3, (q, -1)).unflatten(2, (p, -1)).permute(0, 3, 5, 2, 4, 1)
        return parts.flatten(3, 4).flatten(1, 2)

    def join(self, tokens: Tensor, grid: Grid) -> Tensor:
        """`cut` undone: B windows tokens D → B D h w, its channels last in memory."""
        p, q = self.window
        parts = tokens.unflatten(2, (p, q)).unflatten(1, (grid[0] // p, grid[1] // q))  # B y x p q D
        order = (0, 1, 3, 2, 4, 5) if self.kind == "window" else (0, 3, 1, 4, 2, 5)
        return parts.permute(order).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


class MaxViTBlock(nn.Sequential):
    """M: convolution, then both attentions (figure 2)."""

    def __init__(self, config: MaxViTConfig, before: int, width: int, *, stride: int, drop_path: float) -> None:
        super().__init__()
        self.conv = MBConv(config.dialect, before, width, stride=stride, drop_path=drop_path)
        self.attn_window = WindowBlock(config, width, kind="window", drop_path=drop_path)
        self.attn_grid = WindowBlock(config, width, kind="grid", drop_path=drop_path)


class MapBlock(nn.Module):
    """T, CoAtNet's: a pre-norm transformer block over the whole map, which its first half may halve and widen."""

    def __init__(
        self, config: MaxViTConfig, before: int, width: int, *, stride: int, drop_path: float, grid: Grid
    ) -> None:
        super().__init__()
        self.stride = stride
        self.norm1, self.norm2 = map_norm(config, before), map_norm(config, width)
        self.attn = RelativeAttention(config, before, width, grid)
        self.mlp = Mlp(width, EXPANSION * width, activation=config.dialect.activation)
        bias, scaled = config.dialect.map_shortcut_bias, config.dialect.layer_scale
        self.shortcut = Shortcut(config.dialect, before, width, bias=bias) if stride > 1 else nn.Identity()
        self.ls1, self.ls2 = (LayerScale(width, 1e-6) if scaled else nn.Identity() for _ in range(2))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D _ _"]:
        y = self.norm1(x)
        y = pool2(y) if self.stride > 1 else y
        grid = (y.shape[2], y.shape[3])
        y = self.ls1(self.attn(y.flatten(2).transpose(1, 2), grid))
        x = self.shortcut(x) + self.drop_path(y.transpose(1, 2).unflatten(2, grid))
        y = self.ls2(self.mlp(self.norm2(x).flatten(2).transpose(1, 2)))
        return x + self.drop_path(y.transpose(1, 2).unflatten(2, grid))


def map_norm(config: MaxViTConfig, width: int) -> nn.Module:
    kind = BatchNorm if config.dialect.norm == "batch" else LayerNorm2d
    return kind(width, eps=config.dialect.norm_eps)


class Stem(nn.Module):
    """Two 3×3 convolutions, the first of stride 2."""

    def __init__(self, config: MaxViTConfig) -> None:
        super().__init__()
        dialect, (first, second) = config.dialect, config.stem
        self.conv1 = Conv(dialect, config.channels, first, 3, stride=2, bias=dialect.stem_bias[0])
        self.norm = BatchNorm(first, dialect.batch_norm_eps)
        self.act = CONV_ACTIVATIONS[dialect.conv_activation]
        self.conv2 = Conv(dialect, first, second, 3, bias=dialect.stem_bias[1])

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D _ _"]:
        # what attention reads is what a convolution then keeps in memory order
        images = images.contiguous(memory_format=torch.channels_last)
        return self.conv2(self.act(self.norm(self.conv1(images))))


@FAMILIES.register("maxvit")
class MaxViT(MapBackbone[MaxViTConfig]):
    """Backbone of MaxViT. `vitrail.build` makes one with initialised weights; the constructor draws none."""

    Config = MaxViTConfig

    def __init__(self, config: MaxViTConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        self.blocks = nn.ModuleList(nn.ModuleList(blocks) for blocks in _blocks(config))
        pooled = config.dialect.final_norm == "pooled"
        self.norm = nn.LayerNorm(config.width, config.dialect.norm_eps) if pooled else map_norm(config, config.width)
        self.pre_logits = nn.Linear(config.width, config.pre_logits) if config.pre_logits else None
        read = config.pre_logits or config.width
        self.head = nn.Linear(read, config.classes, bias=config.dialect.head_bias) if config.classes else nn.Identity()

    def ends(self) -> tuple[Parts, Parts]:
        return (self.stem,), (self.norm, self.pre_logits, self.head)

    def attention_layers(self) -> list[tuple[str, nn.Module]]:
        """The blocks whose tokens attend in windows, in a grid, or over the whole map."""
        return [(name, part) for name, part in self.named_modules() if isinstance(part, WindowBlock | MapBlock)]

    def finish(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        """The final norm, where it is not the pooled vector's."""
        return self.norm(x) if self.config.dialect.final_norm == "tokens" else x

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """The mean over the map, normed, through the dense + tanh layer. What the head and every probe read."""
        pooled = super().pool(features)
        if self.config.dialect.final_norm == "pooled":
            pooled = self.norm(pooled)
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
            elif isinstance(layer, LayerScale):
                layer.gamma.fill_(layer.start)
            elif isinstance(layer, RelativeAttention):
                layer.table.normal_(std=0.02, generator=generator)
        self.initialise_head()


def _blocks(config: MaxViTConfig) -> Iterator[list[nn.Module]]:
    """The blocks of each stage."""
    before, number, total = config.stem[1], 0, sum(config.depths)
    for stage, (kind, depth, width) in enumerate(zip(config.kinds, config.depths, config.widths, strict=True)):
        blocks: list[nn.Module] = []
        for index in range(depth):
            options = {"stride": 1 if index else 2, "drop_path": config.drop_path * number / total}
            if kind == "T":
                block = MapBlock(config, before, width, **options, grid=config.map_at(stage))
            elif kind == "M":
                block = MaxViTBlock(config, before, width, **options)
            else:
                block = MBConv(config.dialect, before, width, **options)
            blocks.append(block)
            before, number = width, number + 1
        yield blocks
