"""All families, small: what training and export rely on in each."""

import pytest
import torch
from torch.export import Dim

from tests.support.zoo import FAMILIES, VITS
from vitrail.models import zoo
from vitrail.models.backbone import FAMILIES as REGISTERED
from vitrail.models.backbone import ModelConfig
from vitrail.models.deit import DeiTConfig
from vitrail.models.extras import Extras
from vitrail.models.mae import MAEConfig
from vitrail.models.timm_model import TimmConfig
from vitrail.models.vit import ViTConfig
from vitrail.training.optim import freeze_backbone

SMALL = {"width": 16, "depth": 2, "heads": 2, "mlp_width": 32, "patch": (8, 8), "image": (32, 24), "classes": 5}
CONFIGS: dict[str, ModelConfig] = {
    "vit": VITS["vit-b/16"],
    "vit map": VITS["map"],
    "vit sincos": VITS["sincos"],
    "vit dinov2": VITS["dinov2"],
    "vit relative": VITS["relative"],
    "vit convs": ViTConfig(**SMALL, pool="mean", extras=Extras(convs=2)),
    "deit": DeiTConfig(**SMALL),
    "mae": MAEConfig(
        encoder=ViTConfig(**SMALL, positions="sincos-mae"),
        decoder_width=16,
        decoder_heads=2,
        decoder_depth=1,
        decoder_mlp_width=16,
    ),
    "resnet": FAMILIES["r50x1"],
    "resnet v1": FAMILIES["v1"],
    "hybrid": FAMILIES["r50+vit-b/16"],
    "maxvit": FAMILIES["maxvit-t"],
    "maxvit padded": FAMILIES["padded windows"],
    "timm": TimmConfig(name="test_resnet", image=(64, 64), classes=5),
    "timm vit": TimmConfig(name="test_vit", image=(64, 64), classes=5),
}


def test_no_family_is_left_out() -> None:
    assert {config.family for config in CONFIGS.values()} == {model.Config.family for model in zoo.BUILT_IN}
    assert set(REGISTERED) >= {model.Config.family for model in zoo.BUILT_IN}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_linear_probe_trains_the_head_and_nothing_else(name: str) -> None:
    model = zoo.build(CONFIGS[name])
    freeze_backbone(model)
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert trained == {id(parameter) for parameter in model.head.parameters()} and trained
    last = [
        p for part in model.stages()[-1][1] for p in ([part] if isinstance(part, torch.Tensor) else part.parameters())
    ]
    assert trained <= {id(parameter) for parameter in last}
    freeze_backbone(model, 1)
    assert {id(parameter) for parameter in last} <= {id(p) for p in model.parameters() if p.requires_grad}


FIRST = {config.family: name for name, config in reversed(CONFIGS.items())}
"""One of each family; what is told apart by options alone is exported under `make deep`."""
EXPORTED = [name if name in FIRST.values() else pytest.param(name, marks=pytest.mark.deep) for name in CONFIGS]


@pytest.mark.parametrize("name", EXPORTED)
def test_an_exported_graph_takes_any_batch(name: str) -> None:
    model = zoo.build(CONFIGS[name]).eval()
    for parameter in model.head.parameters():
        torch.nn.init.normal_(parameter)
    shape = model.config.channels, *model.config.image
    dynamic = ({0: Dim("batch", min=1, max=64)},)
    exported = torch.export.export(model, (torch.randn(3, *shape),), dynamic_shapes=dynamic, strict=False).module()
    with torch.no_grad():
        for batch in (1, 2, 5):
            images = torch.randn(batch, *shape)
            torch.testing.assert_close(exported(images), model(images), rtol=1e-4, atol=1e-5)
