"""The cost of a model: parameters, multiply-accumulates, and the exaFLOPs of training it.

Convolutions and matrix products are counted, q kᵀ and attention·v among them, on the meta device: nothing is computed.
"""

from functools import lru_cache

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from vitrail.models.backbone import ModelConfig
from vitrail.models.zoo import skeleton


def count_parameters(model: nn.Module | ModelConfig) -> int:
    """All parameters, head and positions included, to the unit."""
    return sum(parameter.numel() for parameter in _module(model).parameters())


def macs(model: nn.Module | ModelConfig, image: tuple[int, int] | None = None) -> int:
    """Multiply-accumulates of one forward pass of one image of H×W pixels (default: the config's own size)."""
    config = getattr(model, "config", model)
    return _macs(config, image or config.image)


@lru_cache(maxsize=256)
def _macs(config: ModelConfig, image: tuple[int, int]) -> int:
    model = skeleton(config).to("meta").eval()
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.empty(1, config.channels, *image))
    return counter.get_total_flops() // 2  # the counter has two operations in a multiply-accumulate


def train_flops(model: nn.Module | ModelConfig, image: tuple[int, int] | None = None) -> int:
    """Operations to train on one image, 6 × MACs: two each, and a backward pass of twice the forward's."""
    return 6 * macs(model, image)


def exaflops(model: nn.Module | ModelConfig, images: float, image: tuple[int, int] | None = None) -> float:
    """10¹⁸ operations to train on `images` images (epochs × data set), the paper's Table 6 (JFT: 303e6 images)."""
    return train_flops(model, image) * images / 1e18


def _module(model: nn.Module | ModelConfig) -> nn.Module:
    return model if isinstance(model, nn.Module) else skeleton(model)
