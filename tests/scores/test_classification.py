"""Scores against scikit-learn, closed forms and hand-counted cases."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from vitrail.errors import DataError, NonFiniteError
from vitrail.scores.calibration import BINS
from vitrail.scores.classification import score_classes
from vitrail.scores.statistics import Z95, wilson


def some(images: int = 500, classes: int = 7, seed: int = 0):
    draw = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, classes, (images,), generator=draw)
    logits = torch.randn(images, classes, generator=draw)
    logits[torch.arange(images), targets] += 1.5
    return logits, targets, [f"class {k}" for k in range(classes)]


@pytest.mark.parametrize(("images", "classes"), [(500, 7), (20_000, 10), (300, 100), (50, 2)])
def test_everything_scikit_learn_knows_is_equal(images, classes):
    logits, targets, names = some(images, classes)
    ours = score_classes(logits, targets, names)
    p, labels = logits.double().softmax(1).numpy(), range(classes)
    answers = p.argmax(1)
    assert ours.top1 == metrics.accuracy_score(targets, answers)
    assert ours.nll == pytest.approx(metrics.log_loss(targets, p, labels=labels))
    np.testing.assert_array_equal(ours.confusion, metrics.confusion_matrix(targets, answers, labels=labels))
    precision, recall, f1, images_of = metrics.precision_recall_fscore_support(
        targets, answers, labels=labels, zero_division=np.nan
    )
    for k, row in enumerate(ours.per_class):
        assert row.images == images_of[k] and row.name == names[k]
        for value, theirs in ((row.recall, recall[k]), (row.precision, precision[k]), (row.f1, f1[k])):
            assert (value is None and np.isnan(theirs)) or value == pytest.approx(theirs)
    present = [row.images > 0 for row in ours.per_class]
    assert ours.balanced == pytest.approx(recall[present].mean())
    if classes > 5:
        assert ours.top5 == metrics.top_k_accuracy_score(targets, logits.numpy(), k=5, labels=labels)
    else:
        assert ours.top5 is None


def test_brier_of_two_classes_is_twice_scikit_learns_and_of_many_is_the_squared_distance():
    logits, targets, names = some(classes=2)
    p = logits.double().softmax(1).numpy()
    assert score_classes(logits, targets, names).brier == pytest.approx(2 * metrics.brier_score_loss(targets, p[:, 1]))
    logits, targets, names = some(classes=9)
    far = logits.double().softmax(1) - torch.nn.functional.one_hot(targets, 9)
    assert score_classes(logits, targets, names).brier == pytest.approx(float((far**2).sum(1).mean()))


@given(images=st.integers(1, 10_000), share=st.floats(0, 1))
def test_wilson_ends_are_the_roots_of_the_score_equation(images, share):
    """(p̂ - p)² = z² p (1 - p) / n, a quadratic in p."""
    right = round(share * images)
    p, z2 = right / images, Z95**2
    roots = np.sort(np.roots([1 + z2 / images, -(2 * p + z2 / images), p * p]).real)
    assert wilson(right, images) == pytest.approx(tuple(np.clip(roots, 0, 1)), abs=1e-7)


def test_wilson_published_values():
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # Newcombe 1998, Table I, method 3
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_calibration_error_of_a_known_case():
    """Four images of confidence 0.9, three of them right, and two of 0.55, both right: 4/6·0.15 + 2/6·0.45."""
    p = torch.tensor([[0.9, 0.1]] * 4 + [[0.55, 0.45]] * 2)
    ours = score_classes(p.log(), torch.tensor([0, 0, 0, 1, 0, 0]), ["a", "b"])
    assert ours.ece == pytest.approx(4 / 6 * 0.15 + 2 / 6 * 0.45, abs=1e-6)
    filled = {k: (b.images, b.accuracy) for k, b in enumerate(ours.bins) if b.images}
    assert filled == {13: (4, 0.75), 8: (2, 1.0)}  # 0.9 is in (13/15, 14/15], 0.55 in (8/15, 9/15]


def test_calibration_error_agrees_with_a_plain_loop_over_intervals():
    logits, targets, names = some(2000, 10, seed=3)
    confidence, answer = logits.double().softmax(1).max(1)
    right, ece = (answer == targets).double(), 0.0
    for k in range(BINS):
        inside = (confidence > k / BINS) & (confidence <= (k + 1) / BINS)
        if inside.any():
            ece += float(inside.double().mean() * (right[inside].mean() - confidence[inside].mean()).abs())
    ours = score_classes(logits, targets, names)
    assert ours.ece == pytest.approx(ece)
    assert sum(b.images for b in ours.bins) == 2000 and len(ours.bins) == 15


def test_worst_mistakes_are_all_mistakes_the_most_confident_first():
    logits, targets, names = some()
    ours = score_classes(logits, targets, names)
    assert set(ours.worst) == set(np.flatnonzero(ours.predicted != ours.targets))
    assert (np.diff(ours.confidence[ours.worst]) <= 0).all()


def test_a_model_that_always_says_the_same_is_right_one_in_k_times():
    """Equal logits must not count as right for every class."""
    ours = score_classes(torch.zeros(60, 6), torch.arange(60) % 6, [str(k) for k in range(6)])
    assert ours.top1 == pytest.approx(1 / 6) and ours.top5 == pytest.approx(5 / 6)
    assert ours.nll == pytest.approx(np.log(6)) and ours.ece == pytest.approx(0, abs=1e-9)


def test_a_perfect_and_confident_model():
    ours = score_classes(1000 * torch.eye(8), torch.arange(8), [str(k) for k in range(8)])
    assert (ours.top1, ours.top5, ours.nll, ours.ece, ours.brier, ours.balanced) == (1, 1, 0, 0, 0, 1)
    assert len(ours.worst) == 0 and ours.interval[0] == pytest.approx(0.6756, abs=5e-5) and ours.interval[1] == 1


def test_classes_without_images_or_answers_have_no_score_instead_of_a_wrong_one():
    ours = score_classes(torch.eye(3)[[0, 0, 1]] * 9, torch.tensor([0, 1, 1]), ["a", "b", "c"])
    a, b, c = ours.per_class
    assert (a.recall, a.precision, b.recall, b.precision) == (1.0, 0.5, 0.5, 1.0)
    assert (c.images, c.recall, c.precision, c.f1) == (0, None, None, None)
    assert ours.balanced == 0.75


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000))
def test_order_of_images_does_not_matter(seed):
    logits, targets, names = some(200, 6, seed)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(seed))
    one, other = (
        score_classes(logits, targets, names).numbers,
        score_classes(logits[order], targets[order], names).numbers,
    )
    assert one == pytest.approx(other)


def test_scores_iterate_as_names_and_numbers():
    logits, targets, names = some()
    named = score_classes(logits, targets, names).numbers
    assert list(named) == ["images", "top1", "top1_low", "top1_high", "top5", "balanced", "nll", "ece", "brier"]
    assert named["images"] == 500 and named["top1_low"] < named["top1"] < named["top1_high"]


def test_bf16_logits_are_scored_in_full_precision():
    logits, targets, names = some()
    ours = score_classes(logits.bfloat16(), targets, names)
    assert ours.nll == pytest.approx(score_classes(logits.bfloat16().double(), targets, names).nll, abs=1e-12)


@pytest.mark.parametrize(
    ("logits", "targets", "error", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), DataError, "no images"),
        (
            torch.zeros(2, 3),
            torch.tensor([0, -1]),
            DataError,
            "image 1 has the label -1.*0 to 2.*not scored",
        ),
        (torch.zeros(2, 3), torch.tensor([3, 0]), DataError, "image 0 has the label 3"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), DataError, "answers 4 classes, but 3 have names"),
        (torch.tensor([[0.0, float("nan"), 0.0]]), torch.tensor([0]), NonFiniteError, "not finite"),
    ],
)
def test_what_cannot_be_scored_is_said(logits, targets, error, message):
    with pytest.raises(error, match=message):
        score_classes(logits, targets, ["a", "b", "c"])
