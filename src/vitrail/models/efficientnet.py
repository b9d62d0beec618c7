"""EfficientNet B0 to B7 (arXiv 1905.11946), to compare with in the papers' tables: torchvision's, behind our surface.

The one file of models that imports torchvision: to write what only stands beside the others out again would teach
nothing about Vision Transformers. Only where a model is built, because `vitrail models` need not wait for it.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.models.checks import at_least, probabilities
from vitrail.models.conv_backbone import BatchNorm, MapBackbone, Parts
from vitrail.models.layers import DropPath, Head, dropout


@dataclass(frozen=True, kw_only=True)
class EfficientNetConfig:
    """Which of the eight, and what a task changes. Depth, width and dropout of B0 to B7 are torchvision's table."""

    family: Literal["efficientnet"] = "efficientnet"
    size: Literal["b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7"] = "b0"
    image: tuple[int, int] = (224, 224)
    """Height and width it is meant for; any other works."""
    channels: int = 3
    classes: int = 1000
    """K outputs of the head; 0 leaves the head out, and `forward` gives the pooled features."""
    head_bias: float = 0.0
    """Start value of the head's bias; -log K suits sigmoid losses."""
    dropout: float = 0.2
    """Before the head. The paper has 0.2 for B0, rising to 0.5 for B7."""
    drop_path: float = 0.2
    """Stochastic depth: block b of n drops its branch with b/n of it."""

    def __post_init__(self) -> None:
        at_least(self, 1, "image", "channels")
        at_least(self, 0, "classes")
        probabilities(self, "dropout", "drop_path")

    @property
    def width(self) -> int:
        """Channels of the last map."""
        return {"b0": 1280, "b1": 1280, "b2": 1408, "b3": 1536, "b4": 1792, "b5": 2048, "b6": 2304, "b7": 2560}[
            self.size
        ]


class EfficientNet(MapBackbone):
    """Backbone of the EfficientNets. `zoo.build` makes one with initialised weights."""

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        from torchvision.models import get_model

        self.config = config
        theirs: Any = get_model(f"efficientnet_{config.size}", stochastic_depth_prob=config.drop_path)
        stem, *blocks, last = theirs.features
        if config.channels != 3:
            stem[0] = nn.Conv2d(config.channels, stem[0].out_channels, 3, 2, 1, bias=False)
        self.stem, self.last = stem, last
        self.blocks = nn.ModuleList(nn.ModuleList(stage) for stage in blocks)
        _adopt(self)
        self.drop = dropout(config.dropout)
        self.head = Head(config.width, config.classes) if config.classes else nn.Identity()

    def ends(self) -> tuple[Parts, Parts]:
        return (self.stem,), (self.last, self.head)

    def finish(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B D h w"]:
        """The last 1×1 convolution."""
        return self.last(x)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.drop(self.pool(self.features(images))))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The original's start: kernels N(0, 2 / fan out), biases 0, norms 1; unit statistics."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                fan_out = layer.weight.numel() // layer.weight.shape[1] // layer.groups
                layer.weight.normal_(std=(2 / fan_out) ** 0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, BatchNorm):
                layer.initialise()
        self.initialise_head()


def _adopt(module: nn.Module) -> None:
    """torchvision's BatchNorm and stochastic depth by ours: no count of batches, and all that `MapBackbone` promises."""
    from torchvision.ops import StochasticDepth

    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, BatchNorm(child.num_features, child.eps, child.momentum or 0.0))
        elif isinstance(child, StochasticDepth):
            setattr(module, name, DropPath(child.p))
        else:
            _adopt(child)
