"""Filters and shifted lines, where the answer is known."""

import numpy as np
import torch

from tests.support.models import HYBRID, MASKED, MAXVIT, RESNET, VIT, lively, noise
from vitrail.inspection.filters import embedding_filters, filter_components, shifted_lines


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


def test_raw_lines_are_orthogonal_and_those_a_smooth_embedding_makes_are_not():
    place = torch.arange(16.0)
    bumps = torch.exp(-((place[:, None] - place) ** 2) / 18)  # each filter sees a few columns
    weight = bumps[:, None, None, :].expand(16, 3, 16, 16)
    lines = shifted_lines(weight)
    assert torch.equal(lines.raw, torch.eye(16))
    raw, embedded = lines.between(1)
    assert raw == 0 and embedded > 0.9
    assert embedded > lines.between(4)[1] > lines.between(12)[1]


def test_an_orthogonal_embedding_keeps_lines_orthogonal():
    weight = torch.eye(2 * 8 * 6).unflatten(1, (2, 8, 6))
    for upright, count in ((True, 6), (False, 8)):
        lines = shifted_lines(weight, upright=upright)
        assert np.allclose(lines.embedded, np.eye(count), atol=1e-6)
