"""What every model family gives: tokens, and the small surface the rest of the house stands on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError


@dataclass(frozen=True)
class Features:
    """Tokens after the last norm, before pooling. ResNet and MaxViT give the positions of their last map as tokens."""

    tokens: Float[Tensor, "B N D"]
    prefix: int
    """How many of the tokens come before the patches: class, distillation and register tokens."""
    grid: tuple[int, int]
    """Patch rows and columns (h, w); N = prefix + h·w."""

    def __repr__(self) -> str:
        images, count, width = self.tokens.shape
        h, w = self.grid
        return f"Features({images} images × {count} tokens × {width}: {self.prefix} before {h}×{w} patches)"

    @property
    def cls(self) -> Float[Tensor, "B D"]:
        """The class token, z_L^0 of the paper's equation 4."""
        if not self.prefix:
            raise ConfigError("this model has no class token", next_step="use `patches`, or build it with pool='cls'")
        return self.tokens[:, 0]

    @property
    def patches(self) -> Float[Tensor, "B n D"]:
        return self.tokens[:, self.prefix :]

    @property
    def map(self) -> Float[Tensor, "B D h w"]:
        return rearrange(self.patches, "B (h w) D -> B D h w", h=self.grid[0], w=self.grid[1])


@runtime_checkable
class Backbone(Protocol):
    """The contract of every family: four names, so that nothing else need ask which family it is."""

    config: Any

    def features(self, images: Float[Tensor, "B C H W"]) -> Features: ...

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """What the head reads, and what probes and few-shot call "the features" of an image."""
        ...

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]: ...

    def stages(self) -> Sequence[tuple[str, Sequence[nn.Module | nn.Parameter]]]:
        """(name, its modules and parameters), stem first and head last; every parameter in exactly one stage.

        What layer decay, freezing and taps go by.
        """
        ...
