"""A small model with a record."""

import torch

from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.weights.bundle import Record

CONFIG = ViTConfig(
    width=32,
    depth=2,
    heads=2,
    mlp_width=48,
    patch=(4, 4),
    image=(8, 12),
    channels=1,
    classes=3,
    extras=Extras(pre_logits=16),
)


RECORD = Record(
    config=CONFIG,
    preprocess=Preprocess(size=(8, 12), mean=(0.5,), std=(0.25,)),
    classes=("cat", "dog", "überfisch"),
    source="a test",
    licence="CC0-1.0",
    scores={"top1": 0.5},
)


def a_model(seed: int = 0) -> torch.nn.Module:
    model = zoo.build(CONFIG, seed=seed).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(seed + parameter.numel()))
    return model
