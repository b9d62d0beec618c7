"""Features from any block of a model, and raw pixels as features. Models are looked at from outside; none is
changed.
"""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.arguments import Pool
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models.features import Features
from vitrail.models.layers import Block


class AtLayers(nn.Module):
    """A model whose `pool` gives the features after some of its blocks, side by side: z_ℓ of the paper, after the
    final norm.

    Layers count from 1; -1 is the last, -2 the one before. `pool` "auto" is the class token where the model's head
    reads one, else the mean of the patches. Raises ConfigError for a layer the model does not have."""

    def __init__(self, model: nn.Module, layers: Sequence[int], *, pool: Pool = "auto") -> None:
        super().__init__()
        self.model = model
        blocks = blocks_of(model)
        self.layers = [_number(layer, len(blocks)) for layer in layers]
        self.blocks = [blocks[layer - 1] for layer in self.layers]
        self._pool = pool
        self.record = getattr(model, "record", None)

    def features(self, images: Float[Tensor, "B C H W"]) -> list[Features]:
        seen: dict[nn.Module, Tensor] = {}
        hooks = [
            block.register_forward_hook(lambda module, _, tokens: seen.__setitem__(module, tokens))
            for block in self.blocks
        ]
        try:
            last = self.model.features(images)  # pyrefly: ignore
        finally:
            for hook in hooks:
                hook.remove()
        norm = self._norm("tokens")
        return [Features(norm(seen[block]), last.prefix, last.grid) for block in self.blocks]

    def pool(self, features: list[Features]) -> Float[Tensor, "B P"]:
        return torch.cat([self._pooled(layer) for layer in features], dim=1)

    def _pooled(self, features: Features) -> Float[Tensor, "B P"]:
        kind = self._pool
        if kind == "auto":
            kind = "cls" if self.vit.config.pool == "cls" else "mean"
        if kind != "mean" and not self.vit.config.has_class_token:
            raise ConfigError(
                f"pool = {kind!r} of a model without a class token", allowed="mean", next_step="try `pool='mean'`"
            )
        norm = self._norm("pooled")
        parts = [features.cls if name == "cls" else features.patches.mean(1) for name in kind.split("+")]
        return torch.cat([norm(part) for part in parts], dim=1)

    def _norm(self, when: str) -> Any:
        """The model's own final norm, where it stands at this place."""
        return self.vit.norm if self.vit.config.extras.final_norm == when else nn.Identity()

    @property
    def vit(self) -> Any:
        """The transformer inside: of a hybrid, its second half."""
        return self.model.trunk


class Pixels(nn.Module):
    """No model at all: the normalised pixels of the resized image, row by row. Every model should beat them."""

    def __init__(self, size: tuple[int, int], channels: int) -> None:
        super().__init__()
        half = (0.5,) * channels
        self.record = SimpleNamespace(preprocess=Preprocess(size=size, mean=half, std=half), classes=())
        self.register_parameter(
            "place", nn.Parameter(torch.zeros(0), requires_grad=False)
        )  # says which device it is on

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        return images

    def pool(self, features: Float[Tensor, "B C H W"]) -> Float[Tensor, "B P"]:
        return rearrange(features, "B C H W -> B (H W C)")


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The transformer blocks, first to last; none of a ResNet, a MaxViT or pixels."""
    stages: Any = getattr(model, "stages", list)
    return [module for _, part in stages() for module in part[:1] if isinstance(module, Block)]


def up_to(layer: int | None, count: int, model: nn.Module) -> tuple[int, ...]:
    """The numbers of the `count` blocks that end with `layer`, by default with the last. Raises ConfigError where there
    are not so many."""
    last = _number(-1 if layer is None else layer, len(blocks_of(model)))
    if count > last:
        raise ConfigError(f"{count} blocks that end with layer {last}", allowed=f"layers from {count} on")
    return tuple(range(last - count + 1, last + 1))


def _number(layer: int, depth: int) -> int:
    if not depth:
        raise ConfigError("this model has no transformer blocks to choose from", next_step="leave the layer out")
    found = layer if layer > 0 else depth + 1 + layer
    if not 1 <= found <= depth or layer == 0:
        raise ConfigError(f"layer {layer} of a model of {depth} blocks", allowed=f"1 to {depth}, or -1 for the last")
    return found
