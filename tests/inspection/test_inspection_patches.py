"""Patch features: components, neighbours and high norms of made features, and CKA against its definition."""

import numpy as np
import pytest
import torch

from tests.support.models import HYBRID, MAXVIT, RESNET, VIT, lively, noise
from vitrail.errors import ConfigError
from vitrail.inspection.cka import _hsic, cka, linear_cka
from vitrail.inspection.patches import high_norms, nearest_patches, patch_components, patch_features


@pytest.mark.parametrize("config", [VIT, HYBRID, MAXVIT, RESNET], ids=lambda config: config.family)
def test_features_are_the_models_own_laid_out_as_the_image(config):
    model, images = lively(config), noise(5, 3, *config.image)
    with torch.no_grad():
        features = model.features(images)
    found = patch_features(model, images, batch_size=2)
    assert found.shape[:3] == (5, *features.grid)
    torch.testing.assert_close(found.flatten(1, 2), features.patches, rtol=1e-4, atol=1e-4)


def test_components_are_over_all_images():
    features = noise(3, 4, 5, 20)
    found = patch_components(features)
    assert found.scores.shape == (3, 4, 5, 3)
    assert np.allclose(
        found.scores.flatten(0, 2).T.cov().diagonal() / features.flatten(0, 2).var(0).sum(), found.explained, atol=1e-4
    )


def test_the_nearest_patch_is_the_one_most_alike():
    features = noise(2, 3, 4, 16)
    features[1, 2, 3] = 3 * features[0, 1, 1]  # the same direction, longer
    best, *rest = nearest_patches(features, 0, 1, 1, count=5)
    assert (best.image, best.row, best.column) == (1, 2, 3) and best.cosine == pytest.approx(1)
    assert [one.cosine for one in rest] == sorted((one.cosine for one in rest), reverse=True) and len(rest) == 4
    assert (0, 1, 1) not in {(one.image, one.row, one.column) for one in rest}
    with pytest.raises(ConfigError, match="row 3 of 3"):
        nearest_patches(features, 0, 3, 0)


def test_tokens_of_high_norm_are_found_and_equal_ones_are_not():
    features = noise(2, 8, 8, 64)
    assert high_norms(features).share == 0
    features[1, 4, 6] *= 10
    found = high_norms(features)
    assert found.high.nonzero().tolist() == [[1, 4, 6]] and found.share == 1 / 128
    assert high_norms(torch.ones(1, 4, 4, 3)).share == 0


def test_unbiased_hsic_is_song_and_others_formula():
    x, y = noise(7, 4).double(), noise(7, 5, seed=2).double()
    k, g = x @ x.T, y @ y.T
    k, g = (gram - gram.diag().diag() for gram in (k, g))
    m, one = 7, torch.ones(7, dtype=torch.float64)
    expected = (
        (k @ g).trace() + (one @ k @ one) * (one @ g @ one) / ((m - 1) * (m - 2)) - 2 / (m - 2) * (one @ k @ g @ one)
    ) / (m * (m - 3))
    assert torch.allclose(_hsic((x @ x.T)[None], (y @ y.T)[None])[0, 0], expected)


def test_independent_representations_have_no_unbiased_hsic_on_average():
    found = []
    for seed in range(200):
        x, y = noise(6, 8, seed=seed).double(), noise(6, 8, seed=1000 + seed).double()
        found.append(float(_hsic((x @ x.T)[None], (y @ y.T)[None])))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))


def test_linear_cka_knows_rotations_and_scales():
    x = noise(30, 6)
    rotation = torch.linalg.qr(noise(6, 6, seed=2)).Q
    assert linear_cka(x, 3 * x @ rotation + 1) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, noise(30, 6, seed=3)) < 0.4


def test_cka_of_a_model_with_itself_is_symmetric_with_ones_and_with_another_is_not_square():
    model, images = lively(VIT), noise(9, 3, 224, 160)
    own = cka(model, images, batch_size=5)
    assert own.rows == own.columns == ("stem", "block 1", "block 2", "block 3")
    assert torch.allclose(own.values.diagonal(), torch.ones(4)) and torch.allclose(own.values, own.values.T)
    across = cka(model, images, lively(RESNET), other_images=images)
    assert across.values.shape == (4, 3)
    with pytest.raises(ConfigError, match="4 or more"):
        cka(model, images[:3])
