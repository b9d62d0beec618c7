"""Taps on a model's attention: q and k as they pass, taken by forward hooks; the weights are recomputed beside the
fused path.

The model runs as it always runs, so its outputs are the same bits with and without taps. A layer's weights exist only
while `visit` looks at them, in blocks of query rows: a 1024-pixel image needs megabytes, not gigabytes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vitrail.errors import ConfigError, DoesNotApply
from vitrail.images.preprocess import Preprocess
from vitrail.models.backbone import Backbone
from vitrail.models.layers import Attention
from vitrail.models.maxvit import WindowBlock, relative_bias
from vitrail.models.merging import expand
from vitrail.prediction.forward import answering, as_input, place

BLOCK_BYTES = 8 << 20
"""Weights held at once while a layer is streamed."""


@dataclass(frozen=True)
class Layout:
    """Where the tokens of an attention layer lie in the image."""

    prefix: int
    """Class, distillation and register tokens, which lie nowhere; they come first."""
    grid: tuple[int, int]
    """Rows and columns of the tokens that attend to one another."""
    stride: tuple[float, float]
    """Pixels from one row, and from one column, to the next."""

    def distances(self, patches: slice = slice(None)) -> Float[Tensor, "n m"]:
        """Pixels from these patches (default: from all) to every patch: Euclidean on the grid, times the stride."""
        rows, columns = (torch.arange(size, dtype=torch.float64) for size in self.grid)
        y = rows.repeat_interleave(self.grid[1]) * self.stride[0]
        x = columns.repeat(self.grid[0]) * self.stride[1]
        return torch.hypot(y[patches, None] - y, x[patches, None] - x)


@dataclass(frozen=True, eq=False)
class Tap:
    """One attention layer at the moment it computes. `windows` of an image attend apart: B is images × windows then."""

    layer: int
    """Counted from 1, as in equation 2's z_1 … z_L: layer 1 is model.blocks[0]."""
    name: str
    layout: Layout
    q: Float[Tensor, "B A N d"]
    k: Float[Tensor, "B A N d"]
    bias: Float[Tensor, "#B A N N"] | None = None
    windows: int = 1
    real: Bool[Tensor, "M N"] | None = None
    """Which tokens of each window are no padding; None: all."""

    @property
    def tokens(self) -> int:
        return self.q.shape[2]

    @property
    def heads(self) -> int:
        return self.q.shape[1]

    def weights(self, rows: slice | Sequence[int] = slice(None), heads: Sequence[int] | None = None) -> Tensor:
        """softmax(q kᵀ / √d + bias) of these query rows and heads, both as places in q: B a n N, in float32 (float64
        of a float64 model).
        """
        index = slice(None) if heads is None else list(heads)
        rows = rows if isinstance(rows, slice) else list(rows)
        exact = torch.float64 if self.q.dtype == torch.float64 else torch.float32
        q, k = self.q[:, index][:, :, rows].to(exact), self.k[:, index].to(exact)
        logits = (q * self.q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        if self.bias is not None:
            logits += self.bias[:, index][:, :, rows]
        return logits.softmax(-1)

    def stream(self, heads: Sequence[int] | None = None, start: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """(query rows, their weights B a n N), from row `start` on, in blocks of about BLOCK_BYTES."""
        number = self.heads if heads is None else len(heads)
        size = max(1, BLOCK_BYTES // (4 * len(self.q) * number * self.tokens))
        for first in range(start, self.tokens, size):
            rows = slice(first, min(first + size, self.tokens))
            yield rows, self.weights(rows, heads)


Visit = Callable[[Tap], None]


def watch(
    model: Backbone,
    images: Shaped[Tensor, "B C H W"],
    visit: Visit,
    *,
    layers: Iterable[int] | None = None,
    preprocess: Preprocess | None = None,
) -> Tensor:
    """Runs the model on the images, shows `visit` each chosen attention layer as it computes, and gives the outputs.

    8-bit images are normalised by the model's own preprocessing. Raises DoesNotApply where the model has no attention,
    ConfigError for layers it has not.
    """
    where = place(model)
    pixels = prepare_images(model, images, preprocess)
    with tapped(model, pixels, visit, layers=layers), answering(model, where, torch.float32):
        return model(pixels)


@contextmanager
def tapped(model: Backbone, pixels: Tensor, visit: Visit, *, layers: Iterable[int] | None = None) -> Iterator[None]:
    """Inside, a pass of the model over these pixels shows `visit` each chosen attention layer. Raises as `watch`."""
    found = attention_layers(model)
    # once for all layers: each look at it walks over the whole model
    layout = layout_of(model, pixels) if isinstance(found[0][1], Attention) else None

    def hooks() -> Iterator[RemovableHandle]:
        for layer in choose(layers, len(found), "layer"):
            name, module = found[layer - 1]
            if layout is not None:
                assert isinstance(module, Attention)
                yield from _hook_attention(module, partial(Tap, layer, name, layout), visit)
            else:
                assert isinstance(module, WindowBlock)
                yield from _hook_windows(module, layer, name, pixels, visit)

    with keep_until_end(hooks()):
        yield


def prepare_images(model: nn.Module, images: Tensor, preprocess: Preprocess | None = None) -> Float[Tensor, "B C H W"]:
    """Images as the model reads them: normalised, on its device, in its dtype. Raises ConfigError for none at all."""
    if not len(images):
        raise ConfigError("there are no images to look at", next_step="give at least one image")
    parameter = next(model.parameters())
    return as_input(model, images, parameter.device, preprocess).to(parameter.dtype)


def attention_layers(model: Backbone) -> list[tuple[str, nn.Module]]:
    """Names and modules of all self-attention, in the order of the network. Raises DoesNotApply where there is none."""
    found = model.attention_layers()
    if not found:
        raise DoesNotApply(
            f"a {family(model)} has no attention", next_step="look at its filters, features and Grad-CAM instead"
        )
    return found


def family(model: nn.Module) -> str:
    """The name of its class, as people know it: ViT, ResNet, MaxViT."""
    return type(model).__name__


def choose(wanted: Iterable[int] | None, count: int, what: str, *, first: int = 1) -> list[int]:
    """Numbers in order, the first of them `first`; all for None, negative ones from the end. Raises ConfigError for
    one that is not there.
    """
    if wanted is None:
        return list(range(first, first + count))
    wanted = list(wanted)
    wrong = [number for number in wanted if not (-count <= number < 0 or first <= number < first + count)]
    if wrong:
        raise ConfigError(
            f"{what} {wrong[0]} of a model with {count} {what}s",
            allowed=f"{first} to {first + count - 1}, or -{count} to -1 from the end",
        )
    return sorted({number + count + first if number < 0 else number for number in wanted})


def layout_of(model: Backbone, images: Shaped[Tensor, "B C H W"]) -> Layout:
    """Prefix and grid of the tokens a ViT, or the ViT in a model, has for images of this size. Nothing is computed."""
    height, width = images.shape[2:]
    layers = model.attention_layers()
    if not layers or not isinstance(layers[0][1], Attention):
        raise DoesNotApply(f"the layers of a {family(model)} attend in windows of their own, or not at all")
    grid = model.config.grid_at((height, width))
    return Layout(model.config.prefix, grid, (height / grid[0], width / grid[1]))


@contextmanager
def keep_until_end(hooks: Iterable[RemovableHandle]) -> Iterator[None]:
    """Removes the hooks at the end of the block, whatever happens in it."""
    hooks = list(hooks)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _hook_attention(module: Attention, tap: Callable[..., Tap], visit: Visit) -> list[RemovableHandle]:
    """Hooks on the norms (or identities) that q and k pass, and the turns of rotary positions: exactly what attention uses.

    A merged token is shown by its members, each with the token's q and k: a softmax over them gives each its share of what
    the token gets, because log s is added to the logits of a token of s patches.
    """
    seen: dict[str, Tensor] = {}
    turns: list[Tensor | None] = []
    members: list[Tensor] = []

    def keep(letter: str, value: Tensor) -> None:
        if members:
            value = expand(value.flatten(2), members[-1]).unflatten(2, value.shape[2:])
        seen[letter] = rearrange(value, "B N A d -> B A N d")
        if len(seen) == 2:
            by = turns.pop() if turns else None  # a merged model calls the parts of attention, not the whole
            q, k = (module.turn(seen.pop(name), by) for name in ("q", "k"))
            visit(tap(q, k, module.bias(q)))

    return [
        module.members.register_forward_hook(lambda _, __, value: members.append(value)),
        module.register_forward_pre_hook(lambda _, entered: turns.append((*entered, None)[1])),
        module.q_norm.register_forward_hook(lambda _, __, value: keep("q", value)),
        module.k_norm.register_forward_hook(lambda _, __, value: keep("k", value)),
    ]


def _hook_windows(block: WindowBlock, layer: int, name: str, images: Tensor, visit: Visit) -> list[RemovableHandle]:
    """Hooks for MaxViT's blocks: the map they get, what attention is called with, and its product with the qkv matrix."""
    attn = block.attn
    seen: dict[str, Any] = {}

    def keep(_module: nn.Module, _entered: Any, qkv: Tensor) -> None:
        (_, window, *padding), size = seen.pop("called"), seen.pop("map")
        real = padding[0] if padding else None
        q, k, _ = rearrange(qkv, "B N (three A d) -> three B A N d", three=3, A=attn.heads)
        bias = relative_bias(attn.table, window)
        if real is not None:
            hidden = torch.zeros_like(real, dtype=bias.dtype).masked_fill(~real, -torch.inf)
            bias = (bias + hidden[:, None, None]).repeat(len(q) // len(real), 1, 1, 1)
        layout = Layout(0, window, _window_stride(block, window, size, (images.shape[2], images.shape[3])))
        visit(Tap(layer, name, layout, q, k, bias, len(q) // len(images), real))

    return [
        block.register_forward_pre_hook(lambda _, entered: seen.update(map=entered[0].shape[2:])),
        attn.register_forward_pre_hook(lambda _, entered: seen.update(called=entered)),
        attn.qkv.register_forward_hook(keep),
    ]


def _window_stride(
    block: WindowBlock, window: tuple[int, int], size: Sequence[int], image: tuple[int, int]
) -> tuple[float, float]:
    """Pixels between the tokens of a window: a position of the map, times the step of a grid that spans it."""
    steps = [-(-size[axis] // window[axis]) if block.kind == "grid" else 1 for axis in (0, 1)]
    return steps[0] * image[0] / size[0], steps[1] * image[1] / size[1]
