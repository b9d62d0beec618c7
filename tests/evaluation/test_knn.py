"""Nearest neighbours, near-duplicates and class means against scikit-learn and brute force."""

import numpy as np
import pytest
import torch
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid

from vitrail.errors import DataError
from vitrail.evaluation import neighbours
from vitrail.evaluation.feature_set import Labelled, labelled
from vitrail.evaluation.knn import knn
from vitrail.evaluation.nearest_mean import class_means, nearest_mean

pytestmark = pytest.mark.oracle


def _data(n: int, seed: int, width: int = 12, classes: int = 5) -> Labelled:
    centres = np.random.default_rng(99).standard_normal((classes, width))
    labels = np.arange(n) % classes
    noise = np.random.default_rng(seed).standard_normal((n, width))
    return labelled((0.6 * centres[labels] + noise).astype(np.float32), labels, classes)


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_weighted_votes_equal_scikit_learn(temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_CELLS", 1000)  # many chunks
    train, test = _data(300, 0), _data(101, 1)
    cells = knn(train, test, k=(20, 1, 300), temperature=temperature)
    assert [cell.k for cell in cells] == [20, 1, 300]
    for cell in cells:
        peer = KNeighborsClassifier(cell.k, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
        peer.fit(train.features.double().numpy(), train.labels.numpy())
        assert cell.accuracy == pytest.approx(peer.score(test.features.double().numpy(), test.labels.numpy()))


def test_a_tiny_temperature_does_not_overflow_and_is_the_nearest_neighbour() -> None:
    train, test = _data(60, 0), _data(50, 1)
    (cold,), (nearest,) = knn(train, test, k=[60], temperature=1e-3), knn(train, test, k=[1])
    assert abs(cold.right - nearest.right) <= 1


def test_more_neighbours_than_images_says_so() -> None:
    with pytest.raises(DataError, match=r"k = 200; allowed: up to 60"):
        knn(_data(60, 0), _data(10, 1))


def test_nearest_equals_a_full_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_CELLS", 500)
    bank, queries = _data(90, 0).features, _data(40, 1).features
    found = neighbours.nearest(queries, bank, k=7)
    cosines = cosine_similarity(queries, bank)
    np.testing.assert_array_equal(found.index, np.argsort(-cosines, axis=1)[:, :7])
    np.testing.assert_allclose(found.similarity, -np.sort(-cosines, axis=1)[:, :7], atol=1e-6)


@pytest.mark.parametrize("threshold", [-0.5, 0.0, 0.6])
def test_near_duplicates_equal_all_pairs(threshold: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "_CELLS", 400)
    features = _data(80, 0).features
    cosines = cosine_similarity(features)
    expected = {(i, j) for i in range(80) for j in range(i + 1, 80) if cosines[i, j] >= threshold}
    found = neighbours.near_duplicates(features, threshold=threshold)
    assert {(pair.first, pair.second) for pair in found} == expected and len(found) == len(expected)
    assert [pair.similarity for pair in found] == sorted((pair.similarity for pair in found), reverse=True)


def test_groups_join_what_pairs_connect() -> None:
    pairs = [neighbours.Pair(*ends, 1.0) for ends in [(4, 9), (0, 1), (9, 2), (5, 7), (2, 4)]]
    assert neighbours.groups(pairs) == [[2, 4, 9], [0, 1], [5, 7]]


def test_too_many_duplicates_ask_for_a_higher_threshold() -> None:
    with pytest.raises(DataError, match=r"more than 10 pairs.*raise the threshold"):
        neighbours.near_duplicates(torch.ones(20, 3), limit=10)


def test_nearest_mean_equals_scikit_learn_on_unit_features() -> None:
    train, test = _data(200, 0), _data(100, 1)
    means = class_means(train)
    unit = train.features / train.features.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(means, NearestCentroid().fit(unit.numpy(), train.labels).centroids_, atol=1e-6)
    answers = cosine_similarity(test.features, means).argmax(1)
    assert nearest_mean(train, test).right == (answers == test.labels.numpy()).sum()


def test_a_class_without_images_has_no_mean() -> None:
    with pytest.raises(DataError, match="class 1 has no training images"):
        nearest_mean(labelled([[1.0], [2.0]], [0, 2]), labelled([[1.0], [2.0]], [0, 2]))


def test_mutual_pairs_are_few_and_find_every_copy() -> None:
    """Features all of a cosine near 1, among them two copies of one image: B18 of the practitioner's list."""
    features = 10 + _data(100, 0).features
    features = torch.cat([features, features[[3, 3, 7]]])
    assert len(neighbours.near_duplicates(features, threshold=0.9)) > 4000
    found = neighbours.mutual_pairs(features, threshold=0.9)
    ends = [(pair.first, pair.second) for pair in found]
    assert len(found) <= 52 and (7, 102) in ends
    assert [3, 100, 101] in neighbours.groups([pair for pair in found if pair.similarity > 1 - 1e-5])
    cosines = cosine_similarity(features)
    np.fill_diagonal(cosines, -1)
    best = cosines.max(1)
    for pair in found:
        assert cosines[pair.first, pair.second] >= max(best[pair.first], best[pair.second]) - 1e-4
    assert neighbours.typical_cosine(features) == pytest.approx(np.median(cosines[np.triu_indices(103, 1)]), abs=1e-3)
