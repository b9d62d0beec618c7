"""Small models with all parameters random, so that a part left out would show."""

import torch

from vitrail.models.hybrid import HybridConfig
from vitrail.models.mae import MAEConfig
from vitrail.models.maxvit import MaxViTConfig
from vitrail.models.resnet import ResNetConfig
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import build

VIT = ViTConfig(width=24, depth=3, heads=3, mlp_width=40, patch=(16, 16), image=(224, 160), classes=7)
HYBRID = HybridConfig(
    depths=(1, 1), widths=(128, 256), root_width=32, width=24, depth=2, heads=3, mlp_width=30, classes=5, image=(64, 48)
)
MAXVIT = MaxViTConfig(depths=(1, 1), widths=(32, 64), stem=(16, 16), image=(64, 64), classes=5, window=(3, 3))
RESNET = ResNetConfig(depths=(1, 1), widths=(128, 256), root_width=32, classes=5, image=(64, 48))
MASKED = MAEConfig(
    encoder=ViTConfig(
        width=24, depth=2, heads=3, mlp_width=40, patch=(16, 16), image=(64, 48), classes=0, positions="sincos-mae"
    ),
    decoder_width=32,
    decoder_heads=4,
    decoder_mlp_width=40,
    decoder_depth=1,
)


def lively(config, *, std: float = 0.15) -> torch.nn.Module:
    model = build(config)
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(std * torch.randn(parameter.shape, generator=draws))
    return model.eval()


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
