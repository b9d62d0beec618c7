"""Augmentation against torchvision and Pillow, its distributions, and that an image's draws are its own."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms import InterpolationMode, v2

from tests.support.photographs import photograph
from vitrail.batches.draws import Draws
from vitrail.config import from_dict, to_dict
from vitrail.errors import ConfigError
from vitrail.images import policies
from vitrail.images.preprocess import Preprocess
from vitrail.images.transforms import Augment

PHOTOS = torch.stack([torch.from_numpy(np.array(photograph(k, (48, 40)))).permute(2, 0, 1) for k in range(12)])


def draws(count: int, epoch: int = 0, first: int = 0) -> Draws:
    return Draws(0, np.full(count, epoch), np.arange(first, first + count))


def fixed(**values: float):
    """Draws that are given; every other is a half."""
    return lambda name: values.get(name.replace(".", "_"), 0.5)


EVERY = {
    "flip": Augment(flip=True),
    "pad": Augment(pad=4),
    "affine": Augment(shift=0.1, scale=0.2, rotate=15, shear=8),
    "jitter": Augment(jitter=0.4),
    "randaugment": Augment(randaugment=(2, 15)),
    "trivial": Augment(trivial_augment=True),
    "three": Augment(three_augment=True),
    "erase": Augment(erase=0.7),
    "all": Augment(flip=True, pad=2, shift=0.1, jitter=0.3, three_augment=True, erase=0.5),
}


@pytest.mark.parametrize("kind", EVERY)
def test_an_images_augmentation_depends_on_nothing_else(kind: str) -> None:
    """Alone, in another order or in another batch: the same bits; another epoch: others."""
    augment = EVERY[kind]
    whole = augment.batch(PHOTOS.clone(), draws(12))
    assert whole.dtype == torch.uint8 and whole.shape == PHOTOS.shape
    alone = torch.cat([augment.batch(PHOTOS[k : k + 1].clone(), draws(1, first=k)) for k in range(12)])
    assert torch.equal(whole, alone)
    order = np.random.default_rng(0).permutation(12)
    shuffled = augment.batch(PHOTOS[order].clone(), Draws(0, np.zeros(12, np.int64), order))
    assert torch.equal(whole[order], shuffled)
    assert not torch.equal(whole, augment.batch(PHOTOS.clone(), draws(12, epoch=1)))
    assert torch.equal(augment.batch(PHOTOS[:0].clone(), draws(0)), PHOTOS[:0])


@pytest.mark.parametrize("kind", EVERY)
def test_grey_images_can_be_augmented_too(kind: str) -> None:
    grey = PHOTOS[:, :1, :28, :28].clone()
    assert EVERY[kind].batch(grey, draws(12)).shape == (12, 1, 28, 28)


def test_nothing_is_what_the_default_does() -> None:
    assert torch.equal(Augment().batch(PHOTOS.clone(), draws(12)), PHOTOS)
    assert torch.equal(
        Augment().spatial(np.array(photograph(0, (48, 40))), Preprocess(size=(20, 20)), draws(1).of(0)),
        Preprocess(size=(20, 20)).resize_image(np.array(photograph(0, (48, 40)))),
    )


# --- the crop ----------------------------------------------------------------------------------------------------------


def test_crops_have_the_areas_and_aspects_that_were_asked_for() -> None:
    augment, many = Augment(crop_area=(0.2, 0.8)), draws(4000)
    boxes = np.array([augment.crop_box(600, 800, many.of(k)) for k in range(4000)])
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 800 and boxes[:, 3].max() <= 600
    area, aspect = w * h / 480_000, w / h
    assert area.min() > 0.19 and area.max() < 0.81
    assert aspect.min() > 0.74 and aspect.max() < 1.35
    assert np.log(aspect).mean() == pytest.approx(0, abs=0.04)
    assert (boxes[:, 0] / (800 - w)).mean() == pytest.approx(0.5, abs=0.02)


def test_crops_are_distributed_as_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = [v2.RandomResizedCrop(8, scale=(0.05, 1.0)).make_params([torch.zeros(3, 375, 500)]) for _ in range(3000)]
    augment, many = Augment(crop_area=(0.05, 1.0)), draws(3000)
    ours = [augment.crop_box(375, 500, many.of(k)) for k in range(3000)]
    for mine, other in (
        ([box[2] - box[0] for box in ours], [crop["width"] for crop in theirs]),
        ([box[3] - box[1] for box in ours], [crop["height"] for crop in theirs]),
        ([box[0] for box in ours], [crop["left"] for crop in theirs]),
        ([box[1] for box in ours], [crop["top"] for crop in theirs]),
    ):
        assert np.mean(mine) == pytest.approx(np.mean(other), rel=0.05)
        assert np.std(mine) == pytest.approx(np.std(other), rel=0.08)


def test_a_strip_that_no_crop_fits_gives_its_centre() -> None:
    assert Augment(crop_area=(0.9, 1.0)).crop_box(10, 100, draws(1).of(0)) == (43, 0, 56, 10)


# --- small affine ------------------------------------------------------------------------------------------------------


def test_a_shift_by_whole_pixels_moves_pixels() -> None:
    moved = Augment(shift=0.25).batch(
        PHOTOS[:1].clone(), lambda name: np.array([{"shift.x": 0.0, "shift.y": 1.0}.get(name, 0.5)])
    )
    # the draw 0 is -shift, 1 is +shift: the image moves right by 12 of 48 and up by 10 of 40
    assert torch.equal(moved[0, :, :30, 12:], PHOTOS[0, :, 10:, :36])
    assert moved[0, :, 30:].max() == 0 and moved[0, :, :, :12].max() == 0


def test_a_shift_brings_in_the_edge_where_that_is_asked_for() -> None:
    moved = Augment(shift=0.25, outside="border").batch(
        PHOTOS[:1].clone(), lambda name: np.array([{"shift.y": 1.0}.get(name, 0.5)])
    )
    assert torch.equal(moved[0, :, :30], PHOTOS[0, :, 10:])
    assert (moved[0, :, 30:] == PHOTOS[0, :, -1:]).all()


# without fine detail, so that bicubic and bilinear sampling agree; lit, so that black is what came from outside
SMOOTH = (
    torch.from_numpy(np.array(photograph(0, (6, 5)).resize((48, 40), Image.Resampling.BICUBIC))).permute(2, 0, 1) // 2
    + 64
)


def assert_same_inside(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    inside = (ours > 40) & (theirs > 40)
    outside = torch.nn.functional.pad((~inside).float(), [3] * 4, value=1.0)
    inside = ~torch.nn.functional.max_pool2d(outside, 7, 1).bool()  # bicubic reaches further out
    assert inside.float().mean() > 0.1
    assert (ours.float() - theirs)[inside].abs().max() <= 2
    assert ((ours > 40) == (theirs > 40)).float().mean() > 0.97


@pytest.mark.parametrize("degrees", [-30.0, 10.0, 45.0])
def test_rotation_equals_torchvisions_also_where_images_are_not_square(degrees: float) -> None:
    draw = (degrees / 45 + 1) / 2
    ours = Augment(rotate=45).batch(SMOOTH[None].clone(), lambda name: np.array([draw if name == "rotate" else 0.5]))
    assert_same_inside(ours[0], v2.functional.rotate_image(SMOOTH.float(), -degrees, InterpolationMode.BILINEAR))


@pytest.mark.parametrize("factor", [0.5, 1.5])
def test_scale_zooms_about_the_centre(factor: float) -> None:
    ours = Augment(scale=0.5).batch(
        SMOOTH[None].clone(), lambda name: np.array([factor - 0.5 if name == "scale" else 0.5])
    )
    theirs = v2.functional.affine_image(SMOOTH.float(), 0.0, [0, 0], factor, [0, 0], InterpolationMode.BILINEAR)
    assert_same_inside(ours[0], theirs)


def test_padding_and_cropping_shifts_by_every_whole_number_alike() -> None:
    images = torch.zeros(4000, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 4, 4] = 255
    moved = Augment(pad=2).batch(images, draws(4000))
    y, x = moved[:, 0].flatten(1).argmax(1) // 9, moved[:, 0].flatten(1).argmax(1) % 9
    counts = np.histogram2d(y, x, bins=[np.arange(10)] * 2)[0]
    assert (counts[2:7, 2:7] > 100).all() and counts.sum() == counts[2:7, 2:7].sum() == 4000


def test_flips_half_of_the_images() -> None:
    images = torch.zeros(2000, 1, 2, 2, dtype=torch.uint8)
    images[..., 0] = 9
    flipped = Augment(flip=True).batch(images.clone(), draws(2000))
    share = (flipped[:, 0, 0, 1] == 9).float().mean()
    assert share == pytest.approx(0.5, abs=0.04)
    assert ((flipped == images) | (flipped == images.flip(-1))).all()


def test_erasing_covers_the_share_it_says_with_noise() -> None:
    images = torch.zeros(3000, 3, 32, 32, dtype=torch.uint8)
    erased = Augment(erase=0.5).batch(images, draws(3000))
    share = (erased > 0).any(1).float().mean((1, 2))
    assert (share > 0).float().mean() == pytest.approx(0.5, abs=0.03)
    assert share[share > 0].mean() == pytest.approx(0.172, abs=0.02)
    values = erased[erased > 0].float()
    assert values.mean() == pytest.approx(128, abs=2)


def test_jitter_stays_within_its_factors() -> None:
    ours = Augment(jitter=0.4).batch(torch.full((500, 3, 4, 4), 100, dtype=torch.uint8), draws(500))
    assert 60 <= ours.min() <= 65 and 135 <= ours.max() <= 140  # brightness; contrast and saturation of grey do nothing


def test_jitter_equals_torchvisions_functions() -> None:
    """Both round; ours once, at the end."""
    ours = Augment(jitter=0.5).batch(
        PHOTOS[:1].clone(),
        lambda name: np.array([{"jitter.brightness": 0.4, "jitter.contrast": 0.7, "jitter.saturation": 0.1}[name]]),
    )
    theirs = v2.functional.adjust_brightness_image(PHOTOS[0], 0.9)
    theirs = v2.functional.adjust_contrast_image(theirs, 1.2)
    theirs = v2.functional.adjust_saturation_image(theirs, 0.6)
    difference = (ours[0].int() - theirs.int()).abs()
    assert difference.float().mean() < 1.5 and difference.float().quantile(0.99) <= 4  # clipping between the steps


# --- the policies ------------------------------------------------------------------------------------------------------

TORCHVISION = {
    "identity": "Identity", "shear-x": "ShearX", "shear-y": "ShearY", "translate-x": "TranslateX", "translate-y": "TranslateY",
    "rotate": "Rotate", "brightness": "Brightness", "color": "Color", "contrast": "Contrast", "sharpness": "Sharpness",
    "posterize": "Posterize", "solarize": "Solarize", "autocontrast": "AutoContrast", "equalize": "Equalize",
}  # fmt: skip


@pytest.mark.parametrize("name", TORCHVISION)
@pytest.mark.parametrize("step", [0, 9, 15, 30])
def test_every_operation_is_torchvisions_at_the_same_share_of_its_range(name: str, step: int) -> None:
    """Their magnitude `step` of 30 is our strength step / 30 of the same ranges."""
    theirs = v2.RandAugment(interpolation=InterpolationMode.BILINEAR, fill=128)
    magnitudes, _ = theirs._AUGMENTATION_SPACE[TORCHVISION[name]]
    values = magnitudes(31, 40, 48)
    magnitude = 0.0 if values is None else float(values[step]) if values.ndim else 0.0
    expected = theirs._apply_image_or_video_transform(
        PHOTOS[0], TORCHVISION[name], magnitude, interpolation=theirs.interpolation, fill=theirs._fill
    )
    ours = policies.apply(PHOTOS[0], name, step / 30)
    assert (ours.int() - expected.int()).abs().max() <= 1


def test_the_table_is_randaugments_fourteen() -> None:
    assert len(policies.OPS) == 14 and set(policies.OPS) == set(TORCHVISION)


def test_magnitudes_beyond_ten_still_give_pictures() -> None:
    for name in policies.OPS:
        for strength in (-2.0, 2.0):
            assert policies.apply(PHOTOS[0], name, strength).shape == PHOTOS[0].shape


def test_randaugment_draws_every_operation_alike() -> None:
    seen = dict.fromkeys(policies.OPS, 0)
    for k in range(2800):
        seen[policies._pick(list(policies.OPS), draws(1, first=k).of(0)("randaugment.0"))] += 1
    assert min(seen.values()) > 140 and max(seen.values()) < 260


def test_three_augment_is_grey_solarised_or_blurred_as_pillow_blurs() -> None:
    grey = policies.three_augment(PHOTOS[0], fixed(three=0.0))
    assert (grey[0] == grey[1]).all() and (grey[1] == grey[2]).all()
    solar = policies.three_augment(PHOTOS[0], fixed(three=0.4))
    assert torch.equal(solar, torch.where(PHOTOS[0] >= 128, 255 - PHOTOS[0], PHOTOS[0]))
    blurred = policies.three_augment(PHOTOS[0], fixed(three=0.9, three_sigma=0.5))
    pillow = Image.fromarray(PHOTOS[0].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(1.05))
    difference = np.abs(blurred.permute(1, 2, 0).numpy().astype(int) - np.asarray(pillow))
    assert difference[4:-4, 4:-4].mean() < 1.5  # Pillow's Gaussian is three box blurs


# --- what cannot be ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [{"crop_area": (0.5, 0.2)}, {"crop_aspect": (2.0, 1.0)}, {"erase": 1.5}, {"scale": 1.0}, {"pad": -1}, {"repeats": 0},
     {"jitter": math.inf}, {"crop_aspect": (math.inf, math.inf)}, {"randaugment": (0, 9)}, {"randaugment": (2, -1)},
     {"randaugment": (2, math.nan)}],
)  # fmt: skip
def test_numbers_that_mean_nothing_are_refused(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Augment(**wrong)


def test_two_policies_at_once_are_refused_and_so_are_odd_channels() -> None:
    with pytest.raises(ConfigError, match="randaugment and three_augment at once"):
        Augment(randaugment=(2, 9), three_augment=True)
    with pytest.raises(ConfigError, match="randaugment on 5 channels"):
        Augment(randaugment=(2, 9)).batch(torch.zeros(1, 5, 8, 8, dtype=torch.uint8), draws(1))


def test_it_travels_as_json() -> None:
    augment = Augment(crop_area=(0.05, 1.0), flip=True, randaugment=(2, 15), interpolation="bicubic")
    assert from_dict(Augment, to_dict(augment)) == augment
