"""One contract over every row of the zoo and every option: what the rest of the house relies on, whichever family it is.

Wide models stand in as narrow ones with the row's patch.
"""

import pytest
import torch

from tests.support.zoo import FAMILIES, VITS, distinct, lively, pictures
from vitrail.models import zoo
from vitrail.models.backbone import Backbone


@pytest.fixture(params=[pytest.param(config, id=name) for name, config in distinct({**VITS, **FAMILIES}).items()])
def model(request):
    return lively(request.param)


def test_surface(model) -> None:
    assert isinstance(model, Backbone)
    images = pictures(model)
    features = model.features(images)
    h, w = features.grid
    assert features.tokens.shape == (3, features.prefix + h * w, model.config.width)
    assert features.map.shape == (3, model.config.width, h, w)
    assert torch.equal(features.map.flatten(2).transpose(1, 2), features.patches)
    assert torch.equal(model.head(model.pool(features)), model(images))
    assert model(images).shape == (3, 5)
    assert torch.isfinite(model(images)).all()


def test_every_parameter_gets_a_gradient(model) -> None:
    model(pictures(model)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_an_image_does_not_depend_on_its_batch(model) -> None:
    model, images = model.double(), pictures(model).double()
    assert torch.allclose(model(images)[1:2], model(images[1:2]), rtol=0, atol=1e-10)


def test_checkpointed_activations_change_no_bit(model) -> None:
    images = pictures(model)

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        model(images).square().sum().backward()
        return [p.grad.clone() for p in model.parameters()]

    model.train()
    plain, out = gradients(), model(images)
    model.checkpoint_activations = True
    assert torch.equal(model(images), out)
    assert all(torch.equal(a, b) for a, b in zip(plain, gradients(), strict=True))


def test_state_round_trip_is_bit_equal(model) -> None:
    images = pictures(model)
    other = zoo.build(model.config, seed=99).eval()
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(images), model(images))
