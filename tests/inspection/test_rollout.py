"""Rollout against ten lines of NumPy."""

import numpy as np
import pytest
import torch

from tests.support.models import HYBRID, MASKED, MAXVIT, VIT, lively, noise
from vitrail.errors import DoesNotApply
from vitrail.inspection.maps import attention, rollout, rollout_of
from vitrail.models import zoo


def reference(maps):
    """Heads averaged, identity added, rows normalised, layers multiplied."""
    flow = np.eye(maps[0].shape[-1])
    for weights in maps:
        mixed = weights.mean(axis=0) + np.eye(weights.shape[-1])
        mixed = mixed / mixed.sum(axis=1, keepdims=True)
        flow = mixed @ flow
    return flow


def test_ten_lines_of_numpy_say_the_same():
    maps = [noise(2, 4, 17, 17, seed=seed).double().softmax(-1) for seed in range(5)]
    found = rollout(maps)
    for image in range(2):
        assert np.abs(found[image].numpy() - reference([layer[image].numpy() for layer in maps])).max() < 1e-12


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"pool": "mean"},
        {"pool": "mean", "class_token": True},
        {"registers": 3},
        {"pool": "cls-mean"},
        {"positions": "relative"},
    ],
    ids=str,
)
def test_the_row_that_is_read_out_needs_no_matrix(changes, monkeypatch):
    monkeypatch.setattr("vitrail.inspection.attention_hooks.BLOCK_BYTES", 50_000)
    config = zoo.change(VIT, **changes)
    model, images = lively(config), noise(2, 3, 224, 160)
    whole = rollout([layer.weights for layer in attention(model, images)])[:, :, config.prefix :]
    mean = whole[:, config.prefix :].mean(1)
    expected = {"cls": whole[:, 0], "mean": mean, "cls-mean": (whole[:, 0] + mean) / 2}[config.pool]
    torch.testing.assert_close(rollout_of(model, images), expected.unflatten(1, (14, 10)), rtol=1e-4, atol=1e-7)


def test_identity_attention_stays_where_it_is_and_uniform_attention_spreads_evenly():
    eye = torch.eye(6).expand(1, 2, -1, -1)
    assert torch.equal(rollout([eye, eye, eye])[0], torch.eye(6))
    even = torch.full((1, 2, 6, 6), 1 / 6)
    expected = torch.full((6, 6), (1 - 0.5**3) / 6) + 0.5**3 * torch.eye(6)
    torch.testing.assert_close(rollout([even, even, even])[0], expected)


def test_mirrored_maps_roll_out_mirrored():
    maps = [noise(1, 2, 12, 12, seed=seed).softmax(-1) for seed in range(3)]
    order = torch.arange(12).view(3, 4).flip(1).flatten()
    mirrored = rollout([layer[:, :, order][..., order] for layer in maps])
    torch.testing.assert_close(mirrored, rollout(maps)[:, order][..., order])


@pytest.mark.parametrize("config", [HYBRID, MASKED], ids=lambda config: config.family)
def test_hybrids_and_masked_autoencoders_have_one(config):
    found = rollout_of(lively(config), noise(2, 3, 64, 48))
    assert found.shape[0] == 2 and (found >= 0).all() and (found.sum((1, 2)) < 1).all()


def test_windows_cannot_be_multiplied():
    with pytest.raises(DoesNotApply, match="attend in different windows"):
        rollout_of(lively(MAXVIT), noise(1, 3, 64, 64))
