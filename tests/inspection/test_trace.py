"""The trace: every tensor is what its equation says, the model is untouched, any height and width."""

import pytest
import torch

from vitrail.inspection.trace import trace
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import build

SMALL = ViTConfig(width=24, depth=3, heads=3, mlp_width=40, patch=(16, 16), image=(224, 160), classes=7)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(2, 3, 224, 160, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def lively(config: ViTConfig) -> torch.nn.Module:
    """All parameters random, so that a step left out would show."""
    model = build(config).double()
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2, generator=draws)
    return model


def test_vit_b_16_has_the_papers_shapes() -> None:
    steps = {step.name: step for step in trace(build("vit-b/16"), torch.zeros(1, 3, 224, 224))}
    assert steps["patches"].shape == (1, 196, 16, 16, 3)
    assert steps["x_p"].shape == (1, 196, 768)
    assert steps["x_p E"].shape == (1, 196, 768)
    assert steps["[x_class; x_p E]"].shape == steps["z_0"].shape == (1, 197, 768)
    assert steps["q_12"].shape == (1, 12, 197, 64)
    assert steps["A_12"].shape == (1, 12, 197, 197)
    assert steps["GELU_1"].shape == (1, 197, 3072)
    assert steps["z_12"].shape == (1, 197, 768)
    assert steps["y"].shape == (1, 768)
    assert steps["logits"].shape == (1, 1000)


def test_every_step_follows_from_the_one_before(images) -> None:
    """Equations 1 to 4 computed by hand from the traced tensors and the weights."""
    model = lively(SMALL)
    seen = {step.name: step.value for step in trace(model, images)}
    kernel = model.patch_embed.weight.permute(0, 2, 3, 1).flatten(1)  # p q C, the order x_p is flattened in
    torch.testing.assert_close(seen["x_p"] @ kernel.T + model.patch_embed.bias, seen["x_p E"])
    tokens = torch.cat([model.cls_token.expand(2, -1, -1), seen["x_p E"]], dim=1)
    torch.testing.assert_close(tokens + model.positions.table, seen["z_0"])
    for number, block in enumerate(model.blocks, start=1):
        before = seen[f"z_{number - 1}"]
        torch.testing.assert_close(block.norm1(before), seen[f"LN(z_{number - 1})"])
        q, k, v = (seen[f"{letter}_{number}"] for letter in "qkv")
        weights = (q @ k.transpose(2, 3) / 8**0.5).softmax(3)
        gathered = block.attn.proj((weights @ v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(gathered, seen[f"MSA_{number}"])
        torch.testing.assert_close(gathered + before, seen[f"z'_{number}"])
        after = block.mlp.fc2(seen[f"GELU_{number}"]) + seen[f"z'_{number}"]
        torch.testing.assert_close(after, seen[f"z_{number}"])
    torch.testing.assert_close(model.norm(seen["z_3"])[:, 0], seen["y"])
    torch.testing.assert_close(model.head(seen["y"]), seen["logits"])


@pytest.mark.parametrize(
    "changes",
    [
        {"pool": "mean"},
        {"pool": "map"},
        {"pool": "cls-mean"},
        {"pool": "mean", "final_norm": "pooled"},
        {"pre_logits": 11},
        {"pool": "mean", "final_norm": "pooled", "pre_logits": 11},
        {"registers": 4, "layer_scale": 0.1, "qk_norm": True, "activation": "swiglu"},
        {"positions": "relative"},
        {"positions": "none", "classes": 0},
        {"positions": "rotary", "final_norm": "none"},
        {"pre_norm": True, "projection": 7, "final_norm": "pooled", "inner_norm": "both"},
    ],
    ids=str,
)
def test_shapes_and_axes_agree_in_every_variant(changes, images) -> None:
    config = zoo.change(SMALL, **changes)
    model = lively(config)
    steps = trace(model, images)
    for step in steps:
        assert len(step.axes.split()) == len(step.shape), step
        assert step.value is None or tuple(step.value.shape) == step.shape
    seen = {step.name: step.value for step in steps}
    features = model.features(images)
    final = "projection" if config.extras.projection else "pre-logits" if config.extras.pre_logits else "y"
    torch.testing.assert_close(seen[final], model.pool(features))
    torch.testing.assert_close(seen["logits"], model(images))


def test_the_model_is_left_as_it_was(images) -> None:
    model = lively(SMALL).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trace(model, images)
    assert model.training and all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_hooks_are_gone_after_an_error() -> None:
    model = build(SMALL)
    with pytest.raises(ValueError, match="does not divide"):
        trace(model, torch.zeros(1, 3, 225, 160))
    assert not any(module._forward_hooks for module in model.modules())
