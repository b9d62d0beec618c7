"""Logistic regression against scikit-learn's, along the whole path."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.logistic import C, fit_path, logistic

pytestmark = pytest.mark.oracle


def _data(n: int, seed: int, width: int = 6, classes: int = 3) -> Labelled:
    centres = np.random.default_rng(99).standard_normal((classes, width))
    labels = np.arange(n) % classes
    return labelled(0.7 * centres[labels] + np.random.default_rng(seed).standard_normal((n, width)), labels, classes)


def test_the_grid_is_dinov2s() -> None:
    np.testing.assert_allclose(C, 10.0 ** np.linspace(-6, 5, 45))


@pytest.mark.parametrize("classes", [2, 3])
def test_every_point_of_the_path_equals_scikit_learn(classes: int) -> None:
    data = _data(120, 0, classes=classes)
    for fit in fit_path(data, [1e-4, 1e-1, 10.0, 1e4], tolerance=1e-12):
        # with two classes scikit-learn has one weight vector: ours is ±half of it, whose penalty is half
        strength = fit.c * (2 if classes == 2 else 1)
        peer = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(
            data.features.numpy(), data.labels.numpy()
        )
        weight, bias = fit.weight.numpy(), fit.bias.numpy()
        mine = weight[:, 1:] - weight[:, :1] if classes == 2 else weight
        mine_bias = bias[1:] - bias[:1] if classes == 2 else bias - bias.mean()
        peer_bias = peer.intercept_ if classes == 2 else peer.intercept_ - peer.intercept_.mean()
        assert fit.converged
        np.testing.assert_allclose(mine.T, peer.coef_, atol=2e-4, rtol=1e-3)
        np.testing.assert_allclose(mine_bias, peer_bias, atol=2e-4, rtol=1e-3)


def test_the_choice_is_made_on_held_out_images_and_repeats() -> None:
    train, test = _data(300, 0), _data(200, 1)
    first, second = (logistic(train, test, c=[1e-6, 1e-2, 1.0]) for _ in range(2))
    assert first == second
    assert first.c == max(first.validation, key=lambda pair: pair[1])[0]
    assert first.accuracy > 0.6
