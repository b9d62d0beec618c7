"""Few-shot ridge regression against big_vision's own numbers, scikit-learn and the normal equations."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from tests.support.golden import Golden
from vitrail.errors import DataError, NonFiniteError
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.fewshot import BIAS, Sweep, choose, few_shot

pytestmark = pytest.mark.oracle


def _golden(folder: Path) -> tuple[dict, Labelled, Labelled, dict]:
    meta = json.loads((folder / "meta.json").read_text())
    data = np.load(folder / "data.npz")
    train, test = (labelled(data[f"{s}_features"], data[f"{s}_labels"], meta["num_classes"]) for s in ("train", "test"))
    return meta, train, test, data


@pytest.mark.parametrize("variant", ["small", "wide"])
def test_every_cell_equals_big_vision(golden: Golden, variant: str) -> None:
    meta, train, test, _ = _golden(golden / "fewshot_lsr" / variant)
    cells = few_shot(train, test, shots=meta["shots"], l2=meta["l2_reg"], seeds=meta["seeds"])
    found = {(cell.seed, cell.shots, cell.l2): cell for cell in cells}
    assert len(found) == len(meta["results"])
    for row in meta["results"]:
        cell = found[row["seed"], row["shots"], row["l2_reg"]]
        assert cell.images == row["num_train"]
        assert cell.right == round(row["accuracy_f64"] * len(test)), row
        assert abs(cell.accuracy - row["accuracy"]) <= meta["max_abs_diff_accuracy_float32_vs_float64"] + 1e-7


@pytest.mark.parametrize("variant", ["small", "wide"])
def test_choice_and_scores_equal_big_vision(golden: Golden, variant: str) -> None:
    _, train, test, data = _golden(golden / "fewshot_lsr" / variant)
    scored = [name for name in data if name.startswith("scores_f64")]
    assert scored
    for name in scored:
        seed, shots, l2 = map(int, re.fullmatch(r"scores_f64/seed(\d+)/shots(\d+)/l2_(\d+)", name).groups())
        rows = choose(train.labels, train.classes, shots=shots, seed=seed)
        assert np.array_equal(rows, data[f"indices/seed{seed}/shots{shots}"])
        scores = Sweep(train.rows(rows), [l2]).scores(test.features)[0]
        np.testing.assert_allclose(scores, data[name], atol=2e-6)


def _random(n: int, width: int, classes: int, seed: int = 0, shift: float = 0.0) -> Labelled:
    draws = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((classes, width))
    labels = np.arange(n) % classes
    return labelled(0.5 * centres[labels] + draws.standard_normal((n, width)) + shift, labels, classes)


@pytest.mark.parametrize(("n", "width"), [(60, 7), (40, 40), (20, 90)])
def test_weights_equal_scikit_learn_with_the_bias_inside_the_matrix(n: int, width: int) -> None:
    train, test = _random(n, width, 4, shift=3.0), _random(50, width, 4, seed=1, shift=3.0)
    for l2 in (0.5, 1024.0):
        sweep = Sweep(train, [l2])
        X = torch.cat([sweep.whiten(train.features), torch.full((n, 1), BIAS, dtype=torch.float64)], 1).numpy()
        Z = torch.cat([sweep.whiten(test.features), torch.full((50, 1), BIAS, dtype=torch.float64)], 1).numpy()
        Y = 2 * np.eye(4)[train.labels] - 1
        peer = Ridge(alpha=l2, fit_intercept=False, solver="svd").fit(X, Y)
        np.testing.assert_allclose(sweep.scores(test.features)[0], peer.predict(Z), atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(2, 9), st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.floats(0.0, 100.0),
    st.lists(st.floats(-12, 20), min_size=1, max_size=12),
)  # fmt: skip
def test_the_fast_path_answers_as_float64_does(
    classes: int, width: int, shots: int, seed: int, shift: float, powers: list[float]
) -> None:
    train, test = _random(classes * shots, width, classes, seed, shift), _random(400, width, classes, seed + 10, shift)
    l2 = [2.0**power for power in powers]
    sweep = Sweep(train, l2)
    slow = (sweep.scores(test.features).argmax(2) == test.labels).sum(1).tolist()
    assert sweep.right(test) == slow


def test_a_tie_goes_to_the_first_class_as_argmax_does() -> None:
    train = labelled([[0.0], [0.0]], [0, 1])
    assert few_shot(train, labelled([[0.0], [5.0]], [0, 1]), shots=[1], seeds=[0])[0].right == 1


def test_features_that_never_vary_are_harmless() -> None:
    features = np.c_[np.arange(20) % 2, np.full(20, 7.0)]
    data = labelled(features, np.arange(20) % 2)
    assert all(cell.accuracy == 1 for cell in few_shot(data, data, shots=[1, 5]))


def test_seeds_are_draws_and_repeat() -> None:
    train, test = _random(200, 6, 4), _random(100, 6, 4, seed=1)
    first, second = (few_shot(train, test, shots=[2], seeds=[0, 1, 2]) for _ in range(2))
    assert first == second
    assert not torch.equal(*(choose(train.labels, 4, shots=2, seed=seed) for seed in (0, 1)))


def test_a_class_with_too_few_images_stops() -> None:
    train = labelled(np.random.default_rng(0).standard_normal((12, 3)), [0] * 9 + [1] * 3)
    with pytest.raises(DataError, match=r"class 1 has 3 training images, too few for 5 shots.*up to 3 shots"):
        few_shot(train, train, shots=[1, 5])


@pytest.mark.parametrize(
    ("features", "labels", "error", "message"),
    [
        ([[1.0], [2.0]], [0, 0], DataError, "only one class"),
        ([[1.0], [2.0]], [0, -1], DataError, "1 of 2 images have no label"),
        ([[1.0], [float("nan")]], [0, 1], NonFiniteError, "1 of 2 images are not finite, the first in row 1"),
        ([[1.0], [2.0]], [0, 1, 1], DataError, "N × D features and N labels"),
        ([[1.0], [2.0]], [0.5, 1.0], DataError, "whole numbers"),
    ],
)
def test_bad_features_and_labels_say_so(features: list, labels: list, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        labelled(features, labels)


def test_features_of_another_width_and_empty_grids_say_so() -> None:
    train = _random(8, 3, 2)
    with pytest.raises(DataError, match="training features are 3 wide, the test features 4"):
        few_shot(train, _random(8, 4, 2))
    with pytest.raises(DataError, match="l2 = "):
        few_shot(train, train, shots=[1], l2=[0.0])
