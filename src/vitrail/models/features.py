"""Features: the tokens that every model family gives."""

from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

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
            raise ConfigError("this model has no class token", next_step="use its patches, or build it with pool='cls'")
        return self.tokens[:, 0]

    @property
    def patches(self) -> Float[Tensor, "B n D"]:
        return self.tokens[:, self.prefix :]

    @property
    def map(self) -> Float[Tensor, "B D h w"]:
        return rearrange(self.patches, "B (h w) D -> B D h w", h=self.grid[0], w=self.grid[1])
