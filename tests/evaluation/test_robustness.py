"""Corrupted sources: the images they say, the same for every model, and accuracies that a clean set confirms."""

import numpy as np
import pytest
import torch
from torch import nn

from vitrail.batches.loader import eval_batches
from vitrail.errors import ConfigError
from vitrail.evaluation.corruptions import corrupt
from vitrail.evaluation.robustness import at_size, choose, corrupted, mean_corrupted, robustness
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import from_arrays

pytestmark = pytest.mark.oracle

GREY = Preprocess(size=(12, 12), mean=(0.5,), std=(0.5,))


class Brightness(nn.Module):
    """Class 1 for a bright image."""

    def __init__(self) -> None:
        super().__init__()
        self.edge = nn.Parameter(torch.zeros(()))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([self.edge - mean, mean - self.edge], 1)


def _source(images: int = 40):
    values = np.repeat(np.array([60, 190], np.uint8), images // 2)
    pictures = np.broadcast_to(values[:, None, None, None], (images, 16, 20, 1)).copy()
    return from_arrays("two", pictures, (values > 100).astype(np.int64), ("dark", "bright"))


def test_images_are_corrupted_at_the_models_size_and_a_subset_has_the_same() -> None:
    source, preprocess = _source(), Preprocess(size=(12, 12), resize="crop", crop_fraction=0.8, mean=(0.5,), std=(0.5,))
    made = corrupted(source, preprocess, "gaussian-noise", 2, seed=5)
    (batch,) = eval_batches(made.subset([3, 30]), preprocess=at_size(preprocess), batch_size=8)
    for row, index in enumerate((3, 30)):
        clean = preprocess.resize_image(source[index].content).numpy().transpose(1, 2, 0)
        expected = corrupt(clean, "gaussian-noise", 2, seed=5, sample=index)
        assert np.array_equal(batch.images[row].numpy().transpose(1, 2, 0), expected)


def test_rows_begin_with_the_clean_set_and_repeat() -> None:
    first, again = (
        list(
            robustness(Brightness(), _source(), corruptions=["brightness", "jpeg"], severities=[1, 5], preprocess=GREY)
        )
        for _ in range(2)
    )
    assert first == again
    assert [(r.corruption, r.severity) for r in first] == [
        ("none", 0), ("brightness", 1), ("brightness", 5), ("jpeg", 1), ("jpeg", 5),
    ]  # fmt: skip
    assert first[0].accuracy == 1
    assert first[2].accuracy == 0.5  # 60 + 0.5 · 255 is bright
    assert mean_corrupted(first) == pytest.approx(np.mean([r.accuracy for r in first[1:]]))


def test_a_wrong_name_stops_before_anything_is_measured() -> None:
    with pytest.raises(ConfigError, match=r"'frosty'.*jpeg"):
        next(robustness(Brightness(), _source(), corruptions=["jpeg", "frosty"], preprocess=GREY))


def test_a_setting_is_measured_once_and_an_empty_list_is_an_error() -> None:
    twice = {"corruptions": ["contrast", "contrast"], "severities": [1, 1]}
    rows = list(robustness(Brightness(), _source(2), preprocess=GREY, **twice))
    assert [(r.corruption, r.severity) for r in rows] == [("none", 0), ("contrast", 1)]
    with pytest.raises(ConfigError, match=r"severities = \[\]; allowed: one or more"):
        choose(["jpeg"], [])
    with pytest.raises(ConfigError, match=r"corruptions = \(\)"):
        choose((), [1])
