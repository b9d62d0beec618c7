"""Training augmentation as data. Every random number is a draw of (seed, epoch, sample, name); nothing else decides."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float64, UInt8
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.images import decode
from vitrail.images.decode import Box
from vitrail.images.preprocess import Preprocess

Draw = Callable[[str], float]
"""A sample's number in [0, 1) of that name."""
Draws = Callable[[str], Float64[np.ndarray, "B"]]
"""The same of every sample of a batch."""


@dataclass(frozen=True, kw_only=True)
class Augment:
    """What happens to a training image, in this order; the default is nothing but the evaluation's own resizing."""

    crop_area: tuple[float, float] | None = None
    """The inception crop (Szegedy 2015): a box of this share of the image, resized to the model's size. The ViT paper: (0.05, 1)."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of that box, log-uniform."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Of that resizing; None is the evaluation's."""
    flip: bool = False
    """Left and right exchanged with probability one half."""
    shift: float = 0.0
    """Largest shift, as a share of height and width."""
    scale: float = 0.0
    """Largest change of size: a factor of 1 - scale … 1 + scale."""
    rotate: float = 0.0
    """Largest rotation, in degrees."""
    shear: float = 0.0
    """Largest horizontal shear, in degrees."""
    erase: float = 0.0
    """Probability of random erasing (Zhong 2020): a box of 2 % to a third of the image becomes noise."""

    def __post_init__(self) -> None:
        if self.crop_area and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(f"crop_area = {self.crop_area}", allowed="two shares, 0 < smallest ≤ largest ≤ 1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1]:
            raise ConfigError(f"crop_aspect = {self.crop_aspect}", allowed="two ratios, smallest first")
        if not (0 <= self.erase <= 1 and 0 <= self.scale < 1 and self.shift >= 0):
            raise ConfigError(
                f"erase = {self.erase}, scale = {self.scale}, shift = {self.shift}",
                allowed="0 ≤ erase ≤ 1, 0 ≤ scale < 1, shift ≥ 0",
            )

    def spatial(self, image: UInt8[np.ndarray, "H W C"], preprocess: Preprocess, draw: Draw) -> UInt8[Tensor, "c h w"]:
        """One decoded image at the model's size: a random crop where there is one, else as evaluation has it."""
        if self.crop_area is None:
            return preprocess.resize_image(image)
        box = self.crop_box(image.shape[0], image.shape[1], draw)
        crop = decode.resize(image, preprocess.size, self.interpolation or preprocess.interpolation, box=box)
        return preprocess.resize_image(crop)

    def crop_box(self, height: int, width: int, draw: Draw) -> Box:
        """The inception crop's box, in whole pixels: the first of ten tries that fits, else the largest centred box of allowed aspect."""
        assert self.crop_area is not None
        (small, large), (narrow, wide) = self.crop_area, self.crop_aspect
        for attempt in range(10):
            area = height * width * (small + (large - small) * draw(f"crop.area.{attempt}"))
            aspect = narrow * (wide / narrow) ** draw(f"crop.aspect.{attempt}")
            w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < w <= width and 0 < h <= height:
                left, top = int(draw("crop.x") * (width - w + 1)), int(draw("crop.y") * (height - h + 1))
                return left, top, left + w, top + h
        w, h = min(width, round(height * wide)), min(height, round(width / narrow))
        left, top = (width - w) // 2, (height - h) // 2
        return left, top, left + w, top + h

    def batch(self, images: UInt8[Tensor, "B C H W"], draws: Draws) -> UInt8[Tensor, "B C H W"]:
        """What works on images of one size, all at once. The given tensor is left as it is."""
        if self.flip:
            images = _flip(images, draws)
        if self.shift or self.scale or self.rotate or self.shear:
            images = _affine(images, self._matrices(images.shape[-2:], draws))
        if self.erase:
            images = _erase(images, self.erase, draws)
        return images

    def _matrices(self, size: tuple[int, int], draws: Draws) -> Float64[np.ndarray, "B 2 3"]:
        """For each image, output to input coordinates as `grid_sample` has them (-1 … 1): shear, scale, rotate, shift."""
        height, width = size
        angle = np.deg2rad(self.rotate) * _signed(draws("rotate"))
        slant = np.tan(np.deg2rad(self.shear) * _signed(draws("shear")))
        zoom = 1 / (1 + self.scale * _signed(draws("scale")))
        cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
        stretch = height / width  # in -1 … 1 a pixel is not square unless the image is
        rows = [
            [cos, (cos * slant + sin) * stretch, 2 * self.shift * _signed(draws("shift.x"))],
            [-sin / stretch, cos - sin * slant, 2 * self.shift * _signed(draws("shift.y"))],
        ]
        return np.stack([np.stack(row, -1) for row in rows], -2)


def _signed(draw: Float64[np.ndarray, "B"]) -> Float64[np.ndarray, "B"]:
    return 2 * draw - 1


def _flip(images: UInt8[Tensor, "B C H W"], draws: Draws) -> UInt8[Tensor, "B C H W"]:
    chosen = torch.from_numpy(draws("flip") < 0.5)
    images = images.clone()
    images[chosen] = images[chosen].flip(-1)
    return images


def _affine(images: UInt8[Tensor, "B C H W"], matrices: Float64[np.ndarray, "B 2 3"]) -> UInt8[Tensor, "B C H W"]:
    """Bilinear; what comes from outside the image is black."""
    grid = F.affine_grid(torch.from_numpy(matrices).float(), list(images.shape), align_corners=False)
    moved = F.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.round_().clamp_(0, 255).to(torch.uint8)


def _erase(images: UInt8[Tensor, "B C H W"], probability: float, draws: Draws) -> UInt8[Tensor, "B C H W"]:
    """A box of 2 % to 33 % of the area and aspect 0.3 to 3.3 becomes noise of its own."""
    images = images.clone()
    height, width = images.shape[-2:]
    for index in np.flatnonzero(draws("erase") < probability):
        area = height * width * (0.02 + 0.31 * draws("erase.area")[index])
        aspect = 0.3 * (3.3 / 0.3) ** draws("erase.aspect")[index]
        h, w = min(height, round(math.sqrt(area * aspect))), min(width, round(math.sqrt(area / aspect)))
        top = int(draws("erase.y")[index] * (height - h + 1))
        left = int(draws("erase.x")[index] * (width - w + 1))
        noise = np.random.default_rng(int(draws("erase.noise")[index] * 2**53))
        pixels = noise.integers(0, 256, (images.shape[1], h, w), dtype=np.uint8)
        images[index, :, top : top + h, left : left + w] = torch.from_numpy(pixels)
    return images
