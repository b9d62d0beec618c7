"""Paired tests, spread, temperature and multi-label scores against scipy and scikit-learn."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from sklearn import metrics

from vitrail.errors import DataError
from vitrail.scores.calibration import calibrate, fit_temperature
from vitrail.scores.multilabel import choose_threshold, score_labels
from vitrail.scores.statistics import mcnemar, spread

pytestmark = pytest.mark.oracle


def _answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(
        np.repeat(column, [both, first, second, neither])
        for column in ([True, True, False, False], [True, False, True, False])
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 50))
def test_mcnemar_equals_the_binomial_test(first: int, second: int, both: int) -> None:
    found = mcnemar(*_answers(both, first, second, 3))
    n, k = first + second, min(first, second)
    exact = stats.binomtest(k, n).pvalue if n else 1.0
    assert found.exact == pytest.approx(exact, rel=1e-9)
    mid = 1.0 if first == second else 2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5)
    assert found.mid_p == pytest.approx(mid, rel=1e-9)
    assert found.difference == pytest.approx((second - first) / found.images)
    low, high = found.interval
    assert low <= found.difference <= high or abs(found.difference) == 1


def test_thin_tails_do_not_vanish() -> None:
    found = mcnemar(*_answers(0, 0, 1000, 0))
    assert found.exact == pytest.approx(2.0**-999)
    assert mcnemar(*_answers(0, 4000, 6000, 0)).exact == pytest.approx(stats.binomtest(4000, 10_000).pvalue, rel=1e-6)


def test_different_images_cannot_be_paired() -> None:
    with pytest.raises(DataError, match="the same images"):
        mcnemar(np.ones(3, dtype=bool), np.ones(4, dtype=bool))


def test_spread_is_the_sample_deviation() -> None:
    assert str(spread([0.943, 0.945, 0.941])) == "94.30 ± 0.20 (n=3)"
    assert str(spread([0.5])) == "50.00 (n=1)"


@pytest.mark.parametrize("scale", [0.05, 1.0, 30.0])
def test_temperature_minimises_the_nll(scale: float) -> None:
    draws = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 5, (2000,), generator=draws)
    logits = scale * (torch.randn(2000, 5, generator=draws, dtype=torch.float64) + torch.eye(5)[targets])

    def nll(log_temperature: float) -> float:
        return float(torch.nn.functional.cross_entropy(logits / math.exp(log_temperature), targets))

    best = optimize.minimize_scalar(nll, bounds=(-7, 7), method="bounded", options={"xatol": 1e-9})
    assert fit_temperature(logits.float(), targets) == pytest.approx(math.exp(best.x), rel=1e-4)


def test_answers_that_are_all_right_get_the_smallest_temperature() -> None:
    assert fit_temperature(10 * torch.eye(3), torch.arange(3)) == pytest.approx(1e-3)


def test_a_few_right_answers_do_not_make_a_model_certain() -> None:
    """As if one label in N + 2 were wrong: with two classes that is the probability itself."""
    logits = 10 * torch.eye(2)[torch.arange(8) % 2]
    found = calibrate(logits, torch.arange(8) % 2)
    assert (logits / found.temperature).softmax(1).max(1).values.mean() == pytest.approx(1 - 0.5 / 10, abs=1e-4)
    assert found.least == pytest.approx(1 - 0.5 / 10, abs=1e-4)


def test_95_of_100_right_answers_stay_above_the_least_probability() -> None:
    draws = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 5, (1000,), generator=draws)
    logits = torch.randn(1000, 5, generator=draws) + 2 * torch.eye(5)[targets]
    found = calibrate(logits, targets)
    best = (logits.double() / found.temperature).softmax(1).max(1)
    kept = best.values[best.indices == targets] >= found.least
    assert float(kept.double().mean()) == pytest.approx(0.95, abs=0.002)
    assert calibrate(torch.eye(3), torch.tensor([1, 2, 0])).least == 0.0


def multi_label(images: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """(logits with ties, truth) of six classes, the last of which no image has."""
    draws = np.random.default_rng(0)
    truth = (draws.random((images, 6)) < 0.3).astype(np.float32)
    truth[:, 5] = 0
    return np.round(draws.standard_normal((images, 6)) + truth, 1).astype(np.float32), truth


def test_multi_label_scores_equal_scikit_learn() -> None:
    logits, truth = multi_label()
    found = score_labels(torch.from_numpy(logits), torch.from_numpy(truth), "abcdef", threshold=0.5)
    expected = [metrics.average_precision_score(truth[:, k], logits[:, k]) for k in range(5)]
    assert [row.average_precision for row in found.per_class] == [*map(pytest.approx, expected), None]
    assert found.headline.value == pytest.approx(np.mean(expected))
    answers = logits >= 0
    assert found.f1_micro == pytest.approx(metrics.f1_score(truth, answers, average="micro"))
    assert found.f1_macro == pytest.approx(metrics.f1_score(truth, answers, average="macro", zero_division=0))
    assert found.exact == pytest.approx(metrics.accuracy_score(truth, answers))
    precision, recall, _, _ = metrics.precision_recall_fscore_support(truth, answers, zero_division=np.nan)
    for k, row in enumerate(found.per_class):
        for value, theirs in ((row.precision, precision[k]), (row.recall, recall[k])):
            assert (value is None and np.isnan(theirs)) or value == pytest.approx(theirs)
    with pytest.raises(DataError, match="not 0 or 1"):
        score_labels(torch.zeros(2, 2), torch.full((2, 2), 0.5), "ab")


def test_the_interval_of_mean_average_precision_is_the_plain_bootstraps() -> None:
    """Counts in place of copies: the same numbers as scikit-learn's on images drawn again and again."""
    logits, truth = multi_label(60)
    low, high = score_labels(torch.from_numpy(logits), torch.from_numpy(truth), "abcdef").interval
    draws = np.random.default_rng(0)
    counts = draws.multinomial(60, np.full(60, 1 / 60), size=400)
    found = []
    for row in counts:
        drawn = np.repeat(np.arange(60), row)
        some = [k for k in range(6) if truth[drawn, k].any()]
        found.append(np.mean([metrics.average_precision_score(truth[drawn, k], logits[drawn, k]) for k in some]))
    assert (low, high) == pytest.approx(tuple(np.quantile(found, [0.025, 0.975])))


def test_the_threshold_is_the_best_of_all() -> None:
    logits, truth = multi_label()
    probabilities = 1 / (1 + np.exp(-logits.astype(float)))
    chosen = choose_threshold(probabilities, truth > 0)

    def f1(threshold: float) -> float:
        return metrics.f1_score(truth, probabilities >= threshold, average="micro")

    assert f1(chosen) == pytest.approx(max(map(f1, np.unique(probabilities))))
    assert choose_threshold(probabilities, np.zeros_like(truth, dtype=bool)) == 0.5


def test_an_image_does_not_choose_its_own_threshold() -> None:
    """Without a threshold from other images, the even half answers by the odd half's, and the odd by the even's."""
    logits, truth = multi_label()
    found = score_labels(torch.from_numpy(logits), torch.from_numpy(truth), "abcdef")
    even, odd = (choose_threshold(found.probabilities[k::2], found.truth[k::2]) for k in (0, 1))
    assert even != odd and not found.tuned
    assert (found.answers[::2] == (found.probabilities[::2] >= odd)).all()
    assert (found.answers[1::2] == (found.probabilities[1::2] >= even)).all()
    assert found.threshold == choose_threshold(found.probabilities, found.truth)
