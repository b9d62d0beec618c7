"""RandAugment, TrivialAugment, 3-Augment: one table of operations (torchvision's kernels), three ways to draw.

Strength 1 is magnitude 10 of AutoAugment's ranges, as the RandAugment paper counts; a magnitude of 15 is strength 1.5.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import UInt8
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as T

Image = UInt8[Tensor, "C H W"]
Draw = Callable[[str], float]

GREY = 128.0
"""Value of pixels from outside the image, as in AutoAugment."""


def _affine(image: Image, *, translate: tuple[float, float] = (0, 0), shear: tuple[float, float] = (0, 0)) -> Image:
    """Shear is about the upper left corner, as in AutoAugment."""
    return T.affine_image(
        image,
        angle=0.0,
        translate=[int(by) for by in translate],
        scale=1.0,
        shear=[math.degrees(math.atan(by)) for by in shear],
        interpolation=InterpolationMode.BILINEAR,
        fill=[GREY] * len(image),
        center=[0.0, 0.0],
    )


def _rotate(image: Image, degrees: float) -> Image:
    return T.rotate_image(image, degrees, InterpolationMode.BILINEAR, fill=[GREY] * len(image))


def _posterize(image: Image, bits: float) -> Image:
    return T.posterize_image(image, bits=min(8, max(1, 8 - round(bits))))


@dataclass(frozen=True)
class Op:
    """One operation and its strength 1: `largest` in RandAugment, `widest` in TrivialAugment; `signed` may go either way."""

    apply: Callable[[Image, float], Image]
    largest: float = 0.0
    widest: float = 0.0
    signed: bool = False


OPS: dict[str, Op] = {
    "identity": Op(lambda image, _: image),
    "autocontrast": Op(lambda image, _: T.autocontrast_image(image)),
    "equalize": Op(lambda image, _: T.equalize_image(image)),
    "rotate": Op(_rotate, 30, 135, True),  # degrees
    "solarize": Op(lambda image, by: T.solarize_image(image, threshold=min(255.0, max(0.0, 255 * (1 - by)))), 1, 1),
    "color": Op(lambda image, by: T.adjust_saturation_image(image, max(0.0, 1 + by)), 0.9, 0.99, True),
    "posterize": Op(_posterize, 4, 6),  # bits lost
    "contrast": Op(lambda image, by: T.adjust_contrast_image(image, max(0.0, 1 + by)), 0.9, 0.99, True),
    "brightness": Op(lambda image, by: T.adjust_brightness_image(image, max(0.0, 1 + by)), 0.9, 0.99, True),
    "sharpness": Op(lambda image, by: T.adjust_sharpness_image(image, max(0.0, 1 + by)), 0.9, 0.99, True),
    "shear-x": Op(lambda image, by: _affine(image, shear=(by, 0)), 0.3, 0.99, True),
    "shear-y": Op(lambda image, by: _affine(image, shear=(0, by)), 0.3, 0.99, True),
    # of the side: 150 of 331 pixels in AutoAugment, 32 of 224 in TrivialAugment
    "translate-x": Op(lambda image, by: _affine(image, translate=(by * image.shape[2], 0)), 150 / 331, 32 / 224, True),
    "translate-y": Op(lambda image, by: _affine(image, translate=(0, by * image.shape[1])), 150 / 331, 32 / 224, True),
}
"""The fourteen of RandAugment (Cubuk 2020, section 3)."""


def apply(image: Image, name: str, strength: float, *, range_: Literal["largest", "widest"] = "largest") -> Image:
    """One operation of the table; `strength` is signed where the operation is."""
    op = OPS[name]
    return op.apply(image, strength * getattr(op, range_))


def _pick(names: list[str], draw: float) -> str:
    return names[int(draw * len(names))]


def _drawn(image: Image, name: str, strength: float, draw: float, range_: Literal["largest", "widest"]) -> Image:
    sign = -1 if OPS[name].signed and draw < 0.5 else 1
    return apply(image, name, sign * strength, range_=range_)


def randaugment(image: Image, layers: int, magnitude: float, draw: Draw) -> Image:
    """`layers` operations one after the other, all of one magnitude (Cubuk 2020)."""
    for layer in range(layers):
        name = _pick(list(OPS), draw(f"randaugment.{layer}"))
        image = _drawn(image, name, magnitude / 10, draw(f"randaugment.sign.{layer}"), "largest")
    return image


def trivial_augment(image: Image, draw: Draw) -> Image:
    """One operation of one uniform strength of 31, from the wide ranges (Müller and Hutter 2021)."""
    strength = int(draw("trivial.strength") * 31) / 30
    return _drawn(image, _pick(list(OPS), draw("trivial")), strength, draw("trivial.sign"), "widest")


def three_augment(image: Image, draw: Draw) -> Image:
    """One of greyscale, solarisation and blur (Touvron 2022, DeiT III, section 3)."""
    which = int(draw("three") * 3)
    if which == 0:
        return T.rgb_to_grayscale_image(image, num_output_channels=3) if len(image) == 3 else image
    if which == 1:
        return T.solarize_image(image, threshold=128.0)
    sigma = 0.1 + 1.9 * draw("three.sigma")
    reach = min(math.ceil(3 * sigma), min(image.shape[1:]) - 1)
    return T.gaussian_blur_image(image, kernel_size=[2 * reach + 1] * 2, sigma=[sigma] * 2)
