"""The views of contrastive learning: torchvision's operations where it has them, and an image's own draws alone."""

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as T

from tests.support.objectives import TINY
from vitrail.batches.batch import Batch
from vitrail.batches.loader import train_batches
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.images.transforms import Augment
from vitrail.models import zoo
from vitrail.models.deit import DeiTConfig
from vitrail.objectives.contrastive import Contrast
from vitrail.objectives.objective import Task
from vitrail.objectives.views import ViewSettings, blur, jitter, luma, turn, view

pytestmark = pytest.mark.oracle

PLAIN = Preprocess(size=(32, 24), mean=(0.0,) * 3, std=(1.0,) * 3)
NOTHING = ViewSettings(crop=1.0, flip=False, colour=0.0, grey=0.0, blur=0.0)


def half(name: str) -> np.ndarray:
    """The draw in the middle of every range: no change of colour, no change of shape."""
    return np.full(2, 0.5)


def images() -> torch.Tensor:
    return torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(3))


def test_with_nothing_asked_a_view_is_the_image() -> None:
    torch.testing.assert_close(view(images(), NOTHING, half, PLAIN), images(), atol=1e-5, rtol=0)


def test_operations_are_torchvisions() -> None:
    x = images()
    asked = dataclasses.replace(NOTHING, solarise=1.0)
    torch.testing.assert_close(view(x, asked, half, PLAIN), T.solarize(x, 0.5), atol=1e-5, rtol=0)
    torch.testing.assert_close(luma(x), T.rgb_to_grayscale(x), atol=1e-3, rtol=0)
    for sigma in (0.6, 2.0):
        ours = blur(x, torch.full((2,), sigma) * 224 / torch.tensor([1.0, 1.0]))[:, :, :, :]
        assert ours.shape == x.shape
    square = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(
        blur(square, torch.tensor([2.0, 2.0])), T.gaussian_blur(square, [13, 13], [2.0, 2.0]), atol=1e-5, rtol=0
    )
    same = torch.full((2, 1, 1, 1), 0.5)
    brighter = torch.ones(2, 1, 1, 1)
    torch.testing.assert_close(jitter(x, brighter, same, same, same), T.adjust_brightness(x, 1.4), atol=1e-5, rtol=0)
    torch.testing.assert_close(jitter(x, same, brighter, same, same), T.adjust_contrast(x, 1.4), atol=1e-4, rtol=0)
    torch.testing.assert_close(jitter(x, same, same, brighter, same), T.adjust_saturation(x, 1.2), atol=1e-4, rtol=0)


def test_hue_turns_about_the_greys() -> None:
    third = turn(torch.tensor([2 * torch.pi / 3]))[0]
    torch.testing.assert_close(third @ torch.tensor([1.0, 0, 0]), torch.tensor([0, 1.0, 0]), atol=1e-6, rtol=0)
    torch.testing.assert_close(third @ torch.ones(3), torch.ones(3), atol=1e-6, rtol=0)


def test_a_blur_is_of_each_image_its_own() -> None:
    x = images()
    both = blur(x, torch.tensor([0.1, 20.0]))
    assert torch.equal(both[:1], blur(x[:1], torch.tensor([0.1])))
    assert (both[1] - x[1]).abs().mean() > 10 * (both[0] - x[0]).abs().mean()


def batches(batch_size: int, count: int = 96):
    source = open_data("digits").train
    found = train_batches(
        source, preprocess=TINY.preprocess, augment=Augment(), seed=5, batch_size=batch_size, start=0, stop=count
    )
    for batch in found:
        yield dataclasses.replace(batch, images=TINY.preprocess.normalise(batch.images))


def test_views_are_keyed_by_seed_epoch_and_sample_not_by_the_batch() -> None:
    objective, task = Contrast(), Task(preprocess=TINY.preprocess, seed=5)

    def all_views(batch_size: int, parts: int) -> torch.Tensor:
        found = []
        for batch in batches(batch_size):
            for part in batch.split(batch_size // parts):
                noise = torch.Generator().manual_seed(len(found))  # which must not matter
                found.append(torch.cat(objective.views(part, task, noise), dim=1))
        return torch.cat(found)

    whole = all_views(96, 1)
    torch.testing.assert_close(whole, all_views(32, 2), atol=1e-6, rtol=0)
    assert not torch.equal(whole[:, 0], whole[:, 1])
    batch = next(batches(8))
    later = dataclasses.replace(batch, numbers=batch.numbers + np.array([1, 0]))
    assert not torch.equal(objective.views(later, task, None)[0], objective.views(batch, task, None)[0])


def test_images_that_are_only_measured_take_the_generators_draws() -> None:
    batch = Batch(torch.rand(2, 1, 8, 8), torch.zeros(2, dtype=torch.long), ("a", "b"))
    task = Task(preprocess=TINY.preprocess)
    one, again, other = (Contrast().views(batch, task, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, again) and not torch.equal(one, other)


def test_what_is_no_probability() -> None:
    with pytest.raises(ConfigError, match=r"blur = \(1.5, 0.1\)"):
        Contrast(blur=(1.5, 0.1))


def test_the_projector_reads_both_tokens_of_a_distilled_deit() -> None:
    config = DeiTConfig(width=16, depth=1, heads=2, mlp_width=32, patch=(4, 4), image=(8, 8), classes=0)
    draws = torch.Generator().manual_seed(0)
    learner = Contrast().build(zoo.build(config), draws)
    predicted, projected = learner(torch.randn(4, 3, 8, 8, generator=draws))
    torch.testing.assert_close(predicted.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(projected.norm(dim=1), torch.ones(4))
