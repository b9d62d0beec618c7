"""DeiT with a distillation token (arXiv 2012.12877, section 3): a second class token whose head follows a teacher.

Everything else is the ViT's: the token is its first register, with a position of its own.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.models.features import Features
from vitrail.models.layers import zero_head
from vitrail.models.vit import ViT, ViTConfig


@dataclass(frozen=True, kw_only=True)
class DeiTConfig(ViTConfig):
    """A ViT with class token, distillation token and a head for each. The defaults are DeiT-B/16's at 224 pixels."""

    family: Literal["deit"] = "deit"  # pyrefly: ignore[bad-override]  # what tells the two apart
    registers: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pool != "cls" or self.registers < 1 or self.pre_logits or self.final_norm != "tokens":
            raise ConfigError(
                f"pool={self.pool!r}, registers={self.registers}, pre_logits={self.pre_logits} in a distilled DeiT",
                allowed="pool='cls', one register or more (the first is the distillation token), no pre_logits",
            )


class DeiT(ViT):
    """The ViT with two heads; a prediction is the mean of both, as the paper's late fusion."""

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        head = TwoHeads(config.width, config.classes) if config.classes else nn.Identity()
        self.head = head  # pyrefly: ignore[bad-assignment]

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """Class token and distillation token side by side, 2 D wide."""
        return features.tokens[:, :2].flatten(1)

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        assert self.registers is not None
        self.registers.normal_(std=0.02, generator=generator)

    def initialise_head(self) -> None:
        for head in self.head.children():
            zero_head(head, self.config.head_bias)


class TwoHeads(nn.Module):
    """One linear map for each token."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.label = nn.Linear(width, classes)
        self.teacher = nn.Linear(width, classes)

    def both(self, pooled: Float[Tensor, "B P"]) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B K"]]:
        """(logits that learn the labels, logits that learn the teacher's answers)."""
        label, teacher = pooled.chunk(2, dim=1)
        return self.label(label), self.teacher(teacher)

    def forward(self, pooled: Float[Tensor, "B P"]) -> Float[Tensor, "B K"]:
        label, teacher = self.both(pooled)
        return (label + teacher) / 2
