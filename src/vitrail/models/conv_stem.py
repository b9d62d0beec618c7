"""Convolutions before the patches: an option of the ViT, beside the hybrids of the paper's section 3.1."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ConvStem(nn.Sequential):
    """`layers` times: a 3×3 convolution, ReLU, a 3×3 max-pool that halves height and width (CCT, arXiv 2104.05704).

    Neighbouring patches then share pixels, which a patch projection must learn. The last layer has `width` channels, each
    one before it half of the next. The result has 1/2^layers of the height and width, rounded up.
    """

    def __init__(self, layers: int, channels: int, width: int) -> None:
        super().__init__()
        sizes = [channels, *(width >> (layers - 1 - k) for k in range(layers))]
        for k in range(layers):
            self.append(nn.Conv2d(sizes[k], sizes[k + 1], 3, padding=1, bias=False))
            self.append(nn.ReLU())
            self.append(nn.MaxPool2d(3, stride=2, padding=1))

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        # torch's max-pool is ten times faster where a pixel's channels lie side by side; `contiguous` leaves one channel alone
        return super().forward(input.to(memory_format=torch.channels_last))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """He's start (arXiv 1502.01852)."""
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                layer.weight.normal_(std=(2 / layer.weight[0].numel()) ** 0.5, generator=generator)
