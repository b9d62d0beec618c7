"""The moving average against its closed form."""

import pytest
import torch
from torch import nn

from vitrail.training.ema import Ema

pytestmark = pytest.mark.oracle


def test_average_of_a_constant_after_the_first_step() -> None:
    """Weights jump from 0 to 1 and stay: the average is 1 - Π decay_t."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.99)
    nn.init.ones_(model.weight)
    left = 1.0
    for step in range(1, 51):
        ema.update(model, step)
        left *= min(0.99, (1 + step) / (10 + step))
    assert ema.model.weight.item() == pytest.approx(1 - left, rel=1e-5)


def test_average_is_apart_from_the_model_and_copies_buffers() -> None:
    model = nn.BatchNorm1d(3)
    ema = Ema(model, decay=0.9)
    model(torch.randn(8, 3))
    ema.update(model, 1)
    assert torch.equal(ema.model.running_mean, model.running_mean)
    assert ema.model.weight.data_ptr() != model.weight.data_ptr()
    assert not ema.model.training
