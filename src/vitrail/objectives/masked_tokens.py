"""The part that masked-patch prediction and SimMIM share: all tokens go through the encoder, some of them blank."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from vitrail.errors import ConfigError
from vitrail.objectives.objective import Learner, draw


class MaskedTokens(Learner):
    """A ViT, a learned vector that stands for what is hidden, and one linear map from each patch's token."""

    def __init__(
        self, backbone: Any, outputs: int, generator: torch.Generator | None, notes: tuple[str, ...] = ()
    ) -> None:
        super().__init__(backbone)
        if not backbone.config.hides_patches:
            raise ConfigError(f"masked patches of a {backbone.config.family}", allowed="a plain ViT")
        width = backbone.config.width
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.to_patch = nn.Linear(width, outputs)
        self.notes = notes
        draw(self.to_patch, generator)
        if generator is not None:
            self.mask_token.data.normal_(std=0.02, generator=generator)

    def forward(
        self,
        images: Float[Tensor, "B C H W"],
        masked: Bool[Tensor, "B n"],
        source: Int[Tensor, "B n"] | None = None,
    ) -> Float[Tensor, "B n P"]:
        """An answer for every patch. `masked` ones are the mask token; the others the embedding that `source` names,
        counted through the batch, or their own.
        """
        vit = self.backbone
        patches = vit.patch_embed(images)
        if source is not None:
            patches = patches.flatten(0, 1)[source]
        patches = torch.where(masked[:, :, None], self.mask_token.to(patches.dtype), patches)
        grid = vit.patch_embed.grid(images)
        tokens = vit.encode(vit.place(patches, grid), grid)
        return self.to_patch(tokens[:, vit.config.prefix :])
