"""The text towers of CLIP (arXiv 2103.00020) and SigLIP (arXiv 2303.15343): the ViT's blocks on words in place of patches.

CLIP's tokens look back only, and the last of a text speaks for it. SigLIP's look everywhere, and the last of all places
speaks, padding or not.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from vitrail.models.checks import at_least
from vitrail.models.extras import Extras
from vitrail.models.layers import Block


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """A text tower. The sizes are those of CLIP ViT-B/32's."""

    vocabulary: int = 49_408
    length: int = 77
    """Tokens of the longest text."""
    width: int = 512
    depth: int = 12
    heads: int = 8
    mlp_width: int = 2048
    projection: int = 512
    """Width of the space that images and texts share."""
    activation: str = "gelu-quick"
    norm_eps: float = 1e-5
    end: int | None = 49_407
    """The token that ends a text and is read (CLIP); None: the last place is, and tokens look everywhere (SigLIP)."""
    projection_bias: bool = False

    def __post_init__(self) -> None:
        at_least(self, 1, "vocabulary", "length", "width", "depth", "heads", "mlp_width", "projection")


class TextTower(nn.Module):
    """Token numbers to one vector a text, in the space of the images."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        extras = Extras(activation=config.activation, norm_eps=config.norm_eps)  # pyrefly: ignore[bad-argument-type]
        self.tokens = nn.Embedding(config.vocabulary, width)
        self.positions = nn.Parameter(torch.empty(config.length, width))
        self.blocks = nn.ModuleList(Block(width, config.heads, config.mlp_width, extras) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.projection = nn.Linear(width, config.projection, bias=config.projection_bias)

    def forward(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B P"]:
        x = self.tokens(ids) + self.positions[: ids.shape[1]]
        mask = None
        if self.config.end is not None:  # a token sees itself and those before
            mask = torch.full((ids.shape[1],) * 2, -torch.inf, dtype=x.dtype, device=x.device).triu(1)[None, None]
        for block in self.blocks:
            x = block(x, None, mask)
        return self.projection(self.norm(x)[torch.arange(len(ids)), self.read_at(ids)])

    def read_at(self, ids: Int[Tensor, "B T"]) -> Int[Tensor, "B"]:
        """The place that is read in each text."""
        if self.config.end is None:
            return ids.new_full((len(ids),), ids.shape[1] - 1)
        return ids.eq(self.config.end).int().argmax(1)
