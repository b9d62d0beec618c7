"""LARS and LAMB against their formulas, written out a second time for one weight at a time; Muon against torch's."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from vitrail.errors import ConfigError
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.training.lars_lamb import LAMB, LARS, trust_ratio
from vitrail.training.muon import Muon, orthogonal
from vitrail.training.optim import freeze_backbone, optimiser, set_lr, tune
from vitrail.training.run import Optim

pytestmark = pytest.mark.oracle

SHAPES = {"matrix": (3, 4), "kernel": (2, 1, 2, 2), "bias": (5,)}
DECAY = 0.1


def parameters() -> dict[str, nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return {name: nn.Parameter(torch.randn(shape, generator=generator)) for name, shape in SHAPES.items()}


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def stepped(kind: type, steps: int, lr: float) -> dict[str, np.ndarray]:
    ours = parameters()
    groups = [
        {"params": [ours["matrix"], ours["kernel"]], "weight_decay": DECAY},
        {"params": [ours["bias"]], "weight_decay": 0.0},
    ]
    optimizer = kind(groups, lr=lr)
    for step in range(steps):
        for name, gradient in gradients(step).items():
            ours[name].grad = gradient
        optimizer.step()
    return {name: parameter.detach().numpy() for name, parameter in ours.items()}


def test_lars_is_momentum_on_gradients_as_long_as_the_weights() -> None:
    expected = {name: p.detach().double().numpy() for name, p in parameters().items()}
    velocity = {name: np.zeros(shape) for name, shape in SHAPES.items()}
    for step in range(4):
        for name, gradient in gradients(step).items():
            w, d = expected[name], gradient.double().numpy()
            if w.ndim > 1:
                d = d + DECAY * w
                d = 0.001 * math.sqrt((w**2).sum()) / math.sqrt((d**2).sum()) * d
            velocity[name] = 0.9 * velocity[name] + d
            expected[name] = w - 0.5 * velocity[name]
    for name, found in stepped(LARS, 4, 0.5).items():
        np.testing.assert_allclose(found, expected[name], rtol=2e-6, atol=1e-7)


def test_lamb_is_adams_step_as_long_as_the_weights() -> None:
    expected = {name: p.detach().double().numpy() for name, p in parameters().items()}
    m, v = ({name: np.zeros(shape) for name, shape in SHAPES.items()} for _ in range(2))
    for step in range(4):
        for name, gradient in gradients(step).items():
            w, g = expected[name], gradient.double().numpy()
            m[name], v[name] = 0.9 * m[name] + 0.1 * g, 0.999 * v[name] + 0.001 * g * g
            u = (m[name] / (1 - 0.9 ** (step + 1))) / (np.sqrt(v[name] / (1 - 0.999 ** (step + 1))) + 1e-6)
            if name != "bias":
                u = u + DECAY * w
                u = u * np.sqrt((w**2).sum()) / np.sqrt((u**2).sum())
            expected[name] = w - 0.01 * u
    for name, found in stepped(LAMB, 4, 0.01).items():
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-6)


def test_lamb_is_timms() -> None:
    """Where timm is installed: no clipping of its own, decay on matrices alone."""
    lamb = pytest.importorskip("timm.optim.lamb").Lamb
    ours = stepped(LAMB, 3, 0.01)
    theirs = parameters()
    groups = [
        {"params": [theirs["matrix"], theirs["kernel"]], "weight_decay": DECAY},
        {"params": [theirs["bias"]], "weight_decay": 0.0},
    ]
    optimizer = lamb(groups, lr=0.01, betas=(0.9, 0.999), eps=1e-6, max_grad_norm=None)
    for step in range(3):
        for name, gradient in gradients(step).items():
            theirs[name].grad = gradient.clone()
        optimizer.step()
    for name, found in ours.items():
        np.testing.assert_allclose(found, theirs[name].detach().numpy(), rtol=1e-5, atol=1e-6)


def test_a_zero_weight_or_update_has_ratio_one() -> None:
    zero, one = torch.zeros(2, 2), torch.ones(2, 2)
    assert trust_ratio(zero, one, 0.001) == 1 and trust_ratio(one, zero, 0.001) == 1
    assert trust_ratio(2 * one, one, 0.001) == pytest.approx(0.002)


@pytest.mark.parametrize("shape", [(4, 4), (3, 8), (8, 3)])
def test_muon_is_torchs(shape: tuple[int, int]) -> None:
    """torch computes the polynomial in bfloat16: the steps agree to its rounding. Adam's group is AdamW's, to the bit."""
    torch.manual_seed(1)
    start, vector = torch.randn(shape), torch.randn(5)
    pairs = [[nn.Parameter(start.clone()), nn.Parameter(vector.clone())] for _ in range(2)]
    groups = [
        {"params": [pairs[0][0]], "weight_decay": 0.1, "matrix": True},
        {"params": [pairs[0][1]], "weight_decay": 0.0, "matrix": False},
    ]
    settings = {"weight_decay": 0.1, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    theirs = torch.optim.Muon([pairs[1][0]], lr=0.02, **settings)
    adam = torch.optim.AdamW([pairs[1][1]], lr=0.02, weight_decay=0.0, fused=True)
    ours = Muon(groups, lr=0.02, momentum=0.9, betas=(0.9, 0.999))
    for _ in range(5):
        gradients = [torch.randn_like(start), torch.randn_like(vector)]
        for pair in pairs:
            for parameter, gradient in zip(pair, gradients, strict=True):
                parameter.grad = gradient.clone()
        for optimizer in (ours, theirs, adam):
            optimizer.step()
    moved = (pairs[1][0] - start).abs().max()
    assert (pairs[0][0] - pairs[1][0]).abs().max() < 0.03 * moved
    assert torch.equal(pairs[0][1], pairs[1][1])


def test_orthogonal_has_the_singular_vectors_and_values_near_one() -> None:
    matrix = torch.randn(6, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = u.T @ orthogonal(matrix) @ v.T
    assert (values - values.diagonal().diag()).abs().max() < 1e-9
    assert values.diagonal().min() > 0.6 and values.diagonal().max() < 1.25


def test_muon_takes_the_matrices_between_stem_and_head() -> None:
    model = zoo.build(ViTConfig(width=8, depth=1, heads=2, mlp_width=16, patch=(4, 4), image=(8, 8), classes=3))
    found = {one.name for one in tune(model, Optim(name="muon")) if one.matrix}
    assert found == {f"blocks.0.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}


@pytest.mark.parametrize("name", ["lars", "lamb", "muon"])
def test_an_optimiser_by_name_goes_on_from_its_state(name: str) -> None:
    """A checkpoint holds tensors by name: a copy that got them takes the same next step."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def stages(self):
            return [("stem", []), ("body", [self.body]), ("head", [self.head])]

    optim = Optim(name=name, lr=0.1, weight_decay=0.1)
    first = Small()
    optimizer = optimiser(tune(first, optim), optim)
    set_lr(optimizer, 0.1)
    for step in range(2):
        for index, parameter in enumerate(first.parameters()):
            parameter.grad = torch.full_like(parameter, 0.1 * (index + 1 + step))
        optimizer.step()
    second = copy.deepcopy(first)
    other = optimiser(tune(second, optim), optim)
    set_lr(other, 0.1)
    for ours, theirs in zip(first.parameters(), second.parameters(), strict=True):
        other.state[theirs] = {key: value.clone() for key, value in optimizer.state[ours].items()}
        ours.grad = theirs.grad = torch.ones_like(ours)
    optimizer.step()
    other.step()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_of_a_frozen_backbone_the_last_blocks_learn() -> None:
    from vitrail.models.vit import ViT, ViTConfig

    model = ViT(ViTConfig(width=16, depth=3, heads=2, mlp_width=32, patch=(2, 2), image=(4, 4), channels=1, classes=3))
    freeze_backbone(model, 2)
    learning = {
        name.split(".")[0] + "." + name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad
    }
    assert learning == {"blocks.1", "blocks.2", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    freeze_backbone(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]
    with pytest.raises(ConfigError, match=r"last_blocks = 4; allowed: 0 … 3"):
        freeze_backbone(model, 4)
    with pytest.raises(ConfigError, match="of a model that learns whole"):
        Optim(last_blocks=2)
