"""Corruptions: published severities, determinism, any size, and closed forms where there is one."""

import colorsys
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from vitrail.errors import ConfigError
from vitrail.evaluation import corruptions
from vitrail.evaluation.corruptions import CORRUPTIONS, corrupt

pytestmark = pytest.mark.oracle


def _picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth shapes with a sharp edge: something to blur."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    planes = [np.sin(7 * x + 3 * k) * np.cos(5 * y - k) + (x > y) for k in range(channels)]
    plane = np.stack(planes, axis=2)
    return np.uint8(20 + 200 * (plane - plane.min()) / np.ptp(plane))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_is_a_function_of_image_severity_seed_and_sample(name: str) -> None:
    image = _picture(40, 56)
    first, again = (corrupt(image, name, 3, seed=1, sample=7) for _ in range(2))
    assert first.shape == image.shape and first.dtype == np.uint8
    assert np.array_equal(first, again)
    random = not np.array_equal(first, corrupt(image, name, 3, seed=2, sample=7))
    still = {"defocus-blur", "gaussian-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg", "saturate"}
    assert random == (name not in still)
    assert random == (not np.array_equal(first, corrupt(image, name, 3, seed=1, sample=8)))


STRONGER = sorted(set(CORRUPTIONS) - {"saturate"})
"""The published severities of the others trade one effect for another."""


@pytest.mark.parametrize("name", STRONGER)
def test_higher_severities_are_further_from_the_image(name: str) -> None:
    image = _picture(112, 112)
    far = [np.abs(corrupt(image, name, severity).astype(int) - image).mean() for severity in range(1, 6)]
    assert far == sorted(far) and far[0] > 0


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(1, 1, 3), (8, 8, 1), (5, 31, 3)])
def test_any_size_and_grey_images_work_at_every_severity(name: str, shape: tuple[int, int, int]) -> None:
    for severity in (1, 5):
        assert corrupt(_picture(*shape) if shape[0] > 1 else np.full(shape, 9, np.uint8), name, severity).shape == shape


def test_noise_has_the_published_strength() -> None:
    grey = np.full((200, 200, 3), 128, np.uint8)
    assert corrupt(grey, "gaussian-noise", 1).std() / 255 == pytest.approx(0.08, rel=0.02)
    assert corrupt(grey, "speckle-noise", 2).std() / 255 == pytest.approx(0.2 * 128 / 255, rel=0.02)
    assert corrupt(grey, "shot-noise", 1).std() / 255 == pytest.approx((128 / 255 / 60) ** 0.5, rel=0.02)
    hit = np.isin(corrupt(grey, "impulse-noise", 5), [0, 255]).mean()
    assert hit == pytest.approx(0.27, rel=0.03)


def test_gaussian_blur_equals_scipy() -> None:
    image = _picture(224, 224) / 255
    expected = gaussian_filter(image, (3, 3, 0), mode="mirror")
    np.testing.assert_allclose(corruptions.gaussian_blur(image, 2, np.random.default_rng(0)), expected, atol=1e-5)


def test_jpeg_and_contrast_are_what_they_say() -> None:
    image, content = _picture(64, 64), io.BytesIO()
    Image.fromarray(image).save(content, "JPEG", quality=15)
    assert np.array_equal(corrupt(image, "jpeg", 3), np.asarray(Image.open(content)))
    flat = corrupt(image, "contrast", 5).astype(float)
    assert flat.std((0, 1)) == pytest.approx(0.05 * image.std((0, 1)), rel=0.1)
    assert flat.mean((0, 1)) == pytest.approx(image.mean((0, 1)), abs=0.5)


@settings(max_examples=50, deadline=None)
@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_brightness_and_saturation_are_those_of_hsv(colour: tuple[int, int, int]) -> None:
    pixel = np.array(colour, float).reshape(1, 1, 3) / 255
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel[0, 0])
    draws = np.random.default_rng(0)
    brighter = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.2, 1))
    np.testing.assert_allclose(corruptions.brightness(pixel, 1, draws)[0, 0], brighter, atol=1e-9)
    stronger = colorsys.hsv_to_rgb(hue, min(5 * saturation + 0.1, 1), value)
    np.testing.assert_allclose(corruptions.saturate(pixel, 3, draws)[0, 0], stronger, atol=1e-9)


def test_severity_is_as_hard_on_small_images() -> None:
    """A blur of a small image is the blur of the large one, seen small."""
    large = _picture(224, 224)
    small = np.asarray(Image.fromarray(large).resize((112, 112), Image.Resampling.BOX))
    seen = Image.fromarray(corrupt(large, "gaussian-blur", 5)).resize((112, 112), Image.Resampling.BOX)
    assert np.abs(corrupt(small, "gaussian-blur", 5).astype(int) - np.asarray(seen)).mean() < 1


def test_unknown_names_and_severities_say_so() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'jpeg'"):
        corrupt(_picture(8, 8), "jpegg", 1)
    with pytest.raises(ConfigError, match="severity 6; allowed: 1 to 5"):
        corrupt(_picture(8, 8), "jpeg", 6)
