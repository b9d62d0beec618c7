"""The linear probe: its closed-form gradients against autograd, its heads against one another."""

import numpy as np
import pytest
import torch
from torch import nn

from vitrail.errors import DataError
from vitrail.evaluation import linear
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.linear import hold_out, linear_probe

pytestmark = pytest.mark.oracle


def _data(n: int, seed: int, width: int = 10, classes: int = 4) -> Labelled:
    centres = np.random.default_rng(99).standard_normal((classes, width))
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).standard_normal((n, width))
    return labelled((centres[labels] + noise).astype(np.float32), labels, classes)


def test_all_heads_at_once_equal_torch_sgd_one_by_one() -> None:
    train, rates, steps = _data(96, 0), [1e-3, 0.1], 9
    heads = linear._train(train, rates, 32, steps, seed=3)
    features = (train.features - heads.mean) / heads.scale
    for index, rate in enumerate(rates):
        draws = torch.Generator().manual_seed(3)
        peer = nn.Linear(10, 4)
        with torch.no_grad():
            peer.weight.copy_(0.01 * torch.randn(10, 4, generator=draws).T)
            peer.bias.zero_()
        solver = torch.optim.SGD(peer.parameters(), rate * 32 / 256, momentum=0.9)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, steps)
        for _, rows in zip(range(steps), linear._batches(96, 32, draws), strict=False):
            solver.zero_grad()
            nn.functional.cross_entropy(peer(features[rows]), train.labels[rows]).backward()
            solver.step()
            schedule.step()
        mine = slice(index * 4, index * 4 + 4)
        torch.testing.assert_close(heads.weight[:, mine], peer.weight.detach().T, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(heads.bias[mine], peer.bias.detach(), atol=1e-6, rtol=1e-4)


def test_it_learns_repeats_and_reports_its_choice() -> None:
    train, test = _data(400, 0), _data(400, 1)
    first, second = (linear_probe(train, test, steps=100) for _ in range(2))
    assert first == second
    assert first.accuracy > 0.8
    assert first.lr == max(first.validation, key=lambda pair: pair[1])[0]
    assert len(first.validation) == 13


def test_scale_and_offset_of_the_features_change_nothing() -> None:
    train, test = _data(200, 0), _data(200, 1)
    moved = [Labelled(1000 * part.features + 500, part.labels, part.classes) for part in (train, test)]
    assert abs(linear_probe(*moved, steps=50).right - linear_probe(train, test, steps=50).right) <= 2


def test_epochs_shuffle_and_see_every_image_once() -> None:
    batches = linear._batches(10, 4, torch.Generator().manual_seed(0))
    epochs = [torch.cat([next(batches) for _ in range(2)]) for _ in range(2)]
    assert all(len(set(epoch.tolist())) == 8 for epoch in epochs)
    assert not torch.equal(*epochs)
    assert len(next(linear._batches(3, 4, torch.Generator()))) == 3


def test_the_held_out_tenth_is_no_part_of_the_rest() -> None:
    train = Labelled(torch.arange(50.0)[:, None], torch.arange(50) % 2, 2)
    kept, held = hold_out(train, seed=0)
    assert len(held) == 5 and sorted(torch.cat([kept.features, held.features])[:, 0].tolist()) == list(range(50))
    with pytest.raises(DataError, match="three or more"):
        hold_out(train.rows(torch.arange(2)), seed=0)
