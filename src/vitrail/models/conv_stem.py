"""Convolutions before the patches: an option of the ViT, beside the hybrids of the paper's section 3.1."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.batch_norm import BatchNorm


class ConvStem(nn.Sequential):
    """Halves height and width `halvings` times: 3×3 convolutions, and 3×3 max-pools between them (CCT, arXiv 2104.05704).

    Neighbouring patches then share pixels, which a patch projection must learn. There is one convolution more than pools:
    the last two have one size. BatchNorm and ReLU follow each (arXiv 2106.14881). Channels grow in equal steps to `width`.
    The result has 1/2^halvings of the height and width, rounded up.
    """

    def __init__(self, halvings: int, channels: int, width: int) -> None:
        super().__init__()
        steps = [max(1, width * k // (halvings + 1)) for k in range(1, halvings + 1)]
        sizes = [channels, *steps, width]
        for k in range(halvings + 1):
            self.append(nn.Conv2d(sizes[k], sizes[k + 1], 3, padding=1, bias=False))
            self.append(BatchNorm(sizes[k + 1], eps=1e-5, momentum=0.1))
            self.append(nn.ReLU())
            if k != halvings - 1:
                self.append(nn.MaxPool2d(3, stride=2, padding=1))

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        # torch's max-pool is ten times faster where a pixel's channels lie side by side; `contiguous` leaves one channel alone
        return super().forward(input.to(memory_format=torch.channels_last))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """He's start (arXiv 1502.01852), and norms of scale 1."""
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5, generator=generator)
            elif isinstance(layer, BatchNorm):
                layer.initialise()
