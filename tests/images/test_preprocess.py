"""The evaluation transform against torchvision's on Pillow images, and what it says when it cannot."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from tests.support.photographs import photograph
from vitrail.batches.loader import eval_batches
from vitrail.config import from_dict, to_dict
from vitrail.errors import ConfigError, DecodeError, ShapeError
from vitrail.images.preprocess import IMAGENET, Preprocess, resize
from vitrail.images.samples import from_arrays

PHOTO = np.array(photograph(0, (190, 120)))


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(64, 64), (224, 160), (35, 190), (120, 190)])
def test_squashing_equals_pillows_antialiased_resize(interpolation: str, size: tuple[int, int]) -> None:
    ours = Preprocess(size=size, interpolation=interpolation).resize_image(PHOTO)
    pillow = Image.fromarray(PHOTO).resize(size[::-1], Image.Resampling[interpolation.upper()])
    assert ours.shape == (3, *size) and ours.is_contiguous()
    assert np.abs(ours.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow)).max() <= 2


@pytest.mark.parametrize(
    ("shape", "fraction"), [((120, 190), 0.875), ((190, 120), 0.875), ((100, 100), 1.0), ((50, 64), 0.9)]
)
def test_resize_and_centre_crop_equal_torchvisions(shape: tuple[int, int], fraction: float) -> None:
    image = Image.fromarray(PHOTO).resize(shape[::-1])
    theirs = v2.Compose([v2.Resize(int(64 / fraction)), v2.CenterCrop(64), v2.PILToTensor()])(image)
    ours = Preprocess(size=(64, 64), resize="crop", crop_fraction=fraction).resize_image(np.array(image))
    assert (ours.int() - theirs.int()).abs().max() <= 2


def test_a_line_of_pixels_is_not_enlarged_until_it_covers_a_square() -> None:
    """It would take gigabytes. Evaluation and training name it as an image that cannot be read."""
    cut = Preprocess(size=(224, 224), resize="crop", crop_fraction=0.875)
    lines = from_arrays("lines", np.zeros((1, 1, 2000, 3), np.uint8), np.zeros(1, np.int64), ("a",))
    with pytest.raises(DecodeError, match=r"lines.*: 1×2,000 pixels become 256×512,000 before .*allowed: 89,000,000"):
        cut.read(lines[0])
    (batch,) = eval_batches(lines, preprocess=cut, batch_size=1, strict=False)
    assert [error.key for error in batch.dropped] == [lines.keys[0]]


def test_normalising_equals_torchvisions_and_denormalising_undoes_it() -> None:
    images = torch.randint(0, 256, (4, 3, 20, 12), dtype=torch.uint8)
    prepare = Preprocess(mean=IMAGENET[0], std=IMAGENET[1])
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(*IMAGENET)])(images)
    assert torch.allclose(prepare.normalise(images), theirs, atol=1e-6)
    assert torch.equal(prepare.denormalise(prepare.normalise(images)), images)
    inception = Preprocess().normalise(torch.tensor([[[[0, 255]]] * 3], dtype=torch.uint8))
    assert inception[0, 0, 0].tolist() == pytest.approx([-1.0, 1.0])  # the original weights: (x - 127.5) / 127.5


def test_padding_keeps_the_whole_picture_and_its_shape() -> None:
    ours = Preprocess(size=(64, 96), resize="pad", background=(10, 20, 30)).resize_image(
        np.full((40, 20, 3), 200, np.uint8)
    )
    assert (ours[:, :, 32:64] == 200).all()
    for margin in (ours[:, :, :32], ours[:, :, 64:]):
        assert margin.amin((1, 2)).tolist() == margin.amax((1, 2)).tolist() == [10, 20, 30]
    grey = Preprocess(size=(8, 8), resize="pad", mean=(0.5,), std=(0.5,)).resize_image(np.zeros((2, 8, 1), np.uint8))
    assert grey[0, :, 0].tolist() == [255] * 3 + [0] * 2 + [255] * 3


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([1, 3]), st.sampled_from(["squash", "crop", "pad"]),
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.floats(0.3, 1.0),
)  # fmt: skip
def test_any_image_fits_any_model(
    height: int, width: int, channels: int, way: str, h: int, w: int, wanted: int, fraction: float
) -> None:
    image = np.full((height, width, channels), 77, np.uint8)
    prepare = Preprocess(
        size=(h, w), resize=way, crop_fraction=fraction, mean=(0.5,) * wanted, std=(0.5,) * wanted, background=(77, 77, 77)
    )  # fmt: skip
    ours = prepare.resize_image(image)
    assert ours.shape == (wanted, h, w) and ours.dtype == torch.uint8
    assert (ours.int() - 77).abs().max() <= 1


def test_n_channels_are_resized_each_by_itself() -> None:
    image = np.dstack([PHOTO, PHOTO[..., :2]])
    five = resize(image, (40, 50), "bilinear")
    assert five.shape == (5, 40, 50) and torch.equal(five[:2], five[3:])
    with pytest.raises(ShapeError, match="5 channels where 3 are wanted"):
        Preprocess().resize_image(image)


def test_it_travels_as_json() -> None:
    prepare = Preprocess(size=(224, 160), resize="crop", crop_fraction=0.9, mean=(0.1,), std=(0.2,))
    assert from_dict(Preprocess, to_dict(prepare)) == prepare


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": (0, 3)},
        {"size": (10_000, 10_000)},
        {"crop_fraction": 0.0},
        {"mean": (0.5,), "std": (0.5, 0.5)},
        {"std": (0.5, 0.0, 0.5)},
    ],
)
def test_numbers_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        dataclasses.replace(Preprocess(), **wrong)
