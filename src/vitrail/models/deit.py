"""DeiT with a distillation token (arXiv 2012.12877, section 3): a second class token whose head follows a teacher.

Everything else is the ViT's: the token is its first register, with a position of its own.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.models.backbone import FAMILIES
from vitrail.models.extras import Extras
from vitrail.models.features import Features
from vitrail.models.initialise import zero_head
from vitrail.models.vit import ViT, ViTConfig

DISTILLED = Extras(registers=1)


@dataclass(frozen=True, kw_only=True)
class DeiTConfig(ViTConfig):
    """A ViT with class token, distillation token and a head for each. The defaults are DeiT-B/16's at 224 pixels."""

    family: ClassVar[str] = "deit"
    extras: Extras = DISTILLED

    @property
    def reads(self) -> str:
        return "distilled"

    @property
    def read_width(self) -> int:
        return 2 * self.width

    @property
    def hides_patches(self) -> bool:
        return False

    @property
    def contents(self) -> str:
        return "encoder, two heads" if self.classes else super().contents

    def __post_init__(self) -> None:
        super().__post_init__()
        extras = self.extras
        if self.pool != "cls" or extras.registers < 1 or extras.pre_logits or extras.final_norm != "tokens":
            raise ConfigError(
                f"pool={self.pool!r}, registers={extras.registers}, pre_logits={extras.pre_logits} in a distilled DeiT",
                allowed="pool='cls', one register or more (the first is the distillation token), no pre_logits",
            )


@FAMILIES.register("deit")
class DeiT(ViT):
    """The ViT with two heads; a prediction is the mean of both, as the paper's late fusion."""

    Config = DeiTConfig

    def __init__(self, config: DeiTConfig) -> None:
        super().__init__(config)
        self.head = TwoHeads(config.width, config.classes) if config.classes else nn.Identity()

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """Class token and distillation token side by side, 2 D wide."""
        return rearrange(features.tokens[:, :2], "B two D -> B (two D)")

    def student_logits(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
        assert isinstance(self.head, TwoHeads)
        return self.head.both(self.pool(self.features(images)))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        super().initialise(generator)
        assert self.registers is not None
        self.registers.normal_(std=0.02, generator=generator)

    def initialise_head(self) -> None:
        for head in self.head.children():
            zero_head(head, self.config.extras.head_bias)


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
