"""The sections of a report say what the scores say."""

import numpy as np
import pytest
import torch

from vitrail.reports.page import render
from vitrail.scores.classification import WORST, score_classes

CLASSES = ("cat", "dog", "owl", "fox", "bee", "ant")


@pytest.fixture
def ours():
    """Sixty images, ten a class, all right but that three dogs are owls, one fox is a cat and one bee an ant."""
    targets = torch.arange(60) % 6
    answers = targets.clone()
    answers[[1, 7, 13]], answers[3], answers[4] = 2, 0, 5
    logits = 4.0 * torch.nn.functional.one_hot(answers, 6)
    logits[3] *= 3
    return score_classes(logits, targets, CLASSES)


def picture(index: int) -> np.ndarray:
    return np.full((8, 8, 1), index, np.uint8)


def test_sections_come_in_order_and_make_a_page(ours):
    sections = ours.sections(picture)
    titles = ["Result", "Confusion", "Most frequent mistakes", "Classes", "Calibration", "Worst mistakes"]
    assert [section.title for section in sections] == titles
    page = render("Report", sections)
    assert "55 of 60" in page and page.count("data:image/png") >= 5


def test_the_gallery_begins_with_the_surest_mistake(ours):
    gallery = ours.sections(picture)[-1]
    assert len(gallery.pictures) == 5 <= WORST
    first = gallery.pictures[0]
    assert (first.image == 3).all() and first.caption == "cat" and first.note == "100% sure; is fox" and not first.good


def test_confused_pairs_are_counted_as_shares_of_the_true_class(ours):
    assert ours.confused_table().rows == (("dog", "owl", 3, 0.3), ("fox", "cat", 1, 0.1), ("bee", "ant", 1, 0.1))
    assert len(ours.confused_table(most=1).rows) == 1


def test_tables_hold_exact_values_and_write_rounded_ones(ours):
    named = ours.numbers
    assert named["top1"] == 55 / 60 and named["images"] == 60
    dog = ours.table().rows[1]
    assert dog[:4] == ("dog", 10, 0.7, 1.0) and list(ours.table().written())[1][2] == "70.00%"
    assert dict(ours.facts())["95 % interval"] == "81.93%–96.39%"


def test_a_perfect_model_has_no_mistakes_to_show():
    perfect = score_classes(9 * torch.eye(3), torch.arange(3), CLASSES[:3])
    sections = perfect.sections(picture)
    assert "Most frequent mistakes" not in [section.title for section in sections]
    assert "Worst mistakes" not in render("Report", sections)
    assert "Top-5" not in dict(perfect.facts())
