"""Filters, where the answer is known."""

import torch

from tests.support.models import HYBRID, MASKED, MAXVIT, RESNET, VIT, lively, noise
from vitrail.inspection.filters import embedding_filters, filter_components


def test_every_family_has_filters_over_pixels():
    for config, shape in (
        (VIT, (24, 3, 16, 16)),
        (MASKED, (24, 3, 16, 16)),
        (HYBRID, (32, 3, 7, 7)),
        (RESNET, (32, 3, 7, 7)),
        (MAXVIT, (16, 3, 3, 3)),
    ):
        assert embedding_filters(lively(config)).shape == shape


def test_components_of_filters_are_patches_in_order_of_variance():
    basis = torch.linalg.qr(noise(48, 3)).Q.T
    mix = noise(200, 3, seed=3) * torch.tensor([5.0, 2.0, 1.0])
    found = filter_components((mix @ basis).unflatten(1, (3, 4, 4)), 28)
    assert found.scores.shape == (28, 3, 4, 4)
    assert abs(float(found.explained.sum()) - 1) < 1e-5 and float(found.explained[3]) < 1e-6
    assert abs(float(found.directions[0] @ basis[0])) > 0.95
