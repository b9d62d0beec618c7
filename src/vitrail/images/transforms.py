"""Training augmentation as data. Every random number is a draw of (seed, epoch, sample, name); nothing else decides."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.images.decode import Box, as_channels
from vitrail.images.preprocess import Preprocess, resize

Draw = Callable[[str], float]
"""A sample's number in [0, 1) of that name."""
Draws = Callable[[str], Float64[np.ndarray, "B"]]
"""The same of every sample of a batch."""

_CACHED = 2**17  # bytes copied at a time: large temporaries cost more in page faults than in copying
_UNIT = 1 << 20  # sides of the square in which a box relative to an image is drawn

_RANGES = (
    ("pad", 0, 512), ("shift", 0, 1), ("scale", 0, 0.99), ("rotate", 0, 180), ("shear", 0, 80),
    ("jitter", 0, 1), ("erase", 0, 1), ("repeats", 1, 64),
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Augment:
    """Changes of a training image, in this order; by default only the evaluation's resizing."""

    crop_area: tuple[float, float] | None = None
    """The inception crop (Szegedy 2015): a box of this share of the area, resized. The ViT paper: (0.05, 1)."""
    crop_aspect: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of that box, log-uniform."""
    interpolation: Literal["nearest", "bilinear", "bicubic"] | None = None
    """Of that resizing; None is the evaluation's."""
    flip: bool = False
    """Left and right exchanged with probability one half."""
    pad: int = 0
    """So many black pixels around, then a crop of the old size: a shift by whole pixels (He 2016 on CIFAR: 4)."""
    shift: float = 0.0
    """Largest shift, as a share of height and width."""
    scale: float = 0.0
    """Largest change of size: a factor of 1 - scale … 1 + scale."""
    rotate: float = 0.0
    """Largest rotation, in degrees."""
    shear: float = 0.0
    """Largest horizontal shear, in degrees."""
    outside: Literal["zeros", "border", "reflection"] = "zeros"
    """The pixels that a shift, rotation or change of size brings in: black, the pixels of the edge, or the image mirrored."""
    jitter: float = 0.0
    """Brightness, contrast and saturation, each times 1 - jitter … 1 + jitter."""
    randaugment: tuple[int, float] | None = None
    """(operations one after the other, magnitude of 10): AugReg's "medium1" is (2, 15), DeiT's (2, 9)."""
    trivial_augment: bool = False
    """One operation of random strength (Müller and Hutter 2021)."""
    three_augment: bool = False
    """One of greyscale, solarisation and blur (DeiT III)."""
    erase: float = 0.0
    """Probability of random erasing (Zhong 2020): a box of 2 % to a third of the image becomes noise."""
    repeats: int = 1
    """Differently augmented copies of an image that follow one another in the stream (Hoffer 2020; DeiT: 3)."""

    def __post_init__(self) -> None:
        if self.crop_area and not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise ConfigError(f"crop_area = {self.crop_area}", allowed="two shares, 0 < smallest ≤ largest ≤ 1")
        if not 0 < self.crop_aspect[0] <= self.crop_aspect[1] < math.inf:
            raise ConfigError(f"crop_aspect = {self.crop_aspect}", allowed="two ratios, smallest first")
        if self.randaugment and not (self.randaugment[0] >= 1 and 0 <= self.randaugment[1] < math.inf):
            raise ConfigError(
                f"randaugment = {self.randaugment}", allowed="(operations, 1 or more; magnitude, 0 or more)"
            )
        for name, least, most in _RANGES:
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"{name} = {getattr(self, name)}", allowed=f"{least:g} … {most:g}")
        if len(self.policies) > 1:
            raise ConfigError(f"{' and '.join(self.policies)} at once", allowed="one of them")

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """Version 0.1.0 had AugMix, which no recipe used."""
        return {name: value for name, value in data.items() if (name, value) != ("augmix", False)}

    @property
    def policies(self) -> tuple[str, ...]:
        """Which of RandAugment, TrivialAugment and 3-Augment are on."""
        names = ("randaugment", "trivial_augment", "three_augment")
        return tuple(name for name in names if getattr(self, name))

    @property
    def cheap(self) -> bool:
        """Whether it costs microseconds an image, for images that lie in memory: no worker pays then."""
        return self.crop_area is None and not self.policies and not self.jitter

    def spatial(self, image: UInt8[np.ndarray, "H W C"], preprocess: Preprocess, draw: Draw) -> UInt8[Tensor, "c h w"]:
        """One decoded image at the model's size: a random crop where there is one, else as evaluation has it."""
        if self.crop_area is None:
            return preprocess.resize_image(image)
        height, width = image.shape[:2]
        native = preprocess.resize == "native"
        left, top, right, bottom = (self.own_box if native else self.crop_box)(height, width, draw)
        return self.fit(image[top:bottom, left:right], preprocess, preprocess.shape_for(height, width))

    def fit(
        self, crop: UInt8[np.ndarray, "H W C"], preprocess: Preprocess, size: tuple[int, int] | None = None
    ) -> UInt8[Tensor, "c h w"]:
        """A crop at the model's size, or at the one given."""
        image = as_channels(crop, preprocess.channels)
        return resize(image, size or preprocess.size, self.interpolation or preprocess.interpolation)

    def own_box(self, height: int, width: int, draw: Draw) -> Box:
        """The crop's box with `crop_aspect` about the image's own aspect, not about a square."""
        left, top, right, bottom = (edge / _UNIT for edge in self.crop_box(_UNIT, _UNIT, draw))
        x, y = min(int(left * width), width - 1), min(int(top * height), height - 1)
        return x, y, max(x + 1, round(right * width)), max(y + 1, round(bottom * height))

    def crop_box(self, height: int, width: int, draw: Draw) -> Box:
        """The inception crop's box, whole pixels: the first of ten tries that fits, else the largest in the centre."""
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
        """Applies all that works on images of one size. May write into the given tensor.

        An image's result does not depend on which others are in the batch.
        """
        if not len(images):
            return images
        if self.flip:
            images = _flip(images, draws)
        if self.pad:
            images = _pad_crop(images, self.pad, draws)
        if self.shift or self.scale or self.rotate or self.shear:
            images = _affine(images, self._matrices(images.shape[-2:], draws), self.outside)
        if self.jitter:
            images = _jitter(images, self.jitter, draws)
        if self.policies:
            images = self._policy(images, draws)
        if self.erase:
            images = _erase(images, self.erase, draws)
        return images

    def _policy(self, images: UInt8[Tensor, "B C H W"], draws: Draws) -> UInt8[Tensor, "B C H W"]:
        from vitrail.images import policies

        if images.shape[1] not in (1, 3):
            raise ConfigError(f"{self.policies[0]} on {images.shape[1]} channels", allowed="grey or RGB images")

        def changed(image: UInt8[Tensor, "C H W"], index: int) -> UInt8[Tensor, "C H W"]:
            def draw(name: str) -> float:
                return float(draws(name)[index])

            if self.randaugment:
                return policies.randaugment(image, *self.randaugment, draw)
            return getattr(policies, self.policies[0])(image, draw)

        return torch.stack([changed(image, index) for index, image in enumerate(images)])

    def _matrices(self, size: tuple[int, ...], draws: Draws) -> Float64[np.ndarray, "B 2 3"]:
        """For each image, output to input coordinates (-1 … 1, as `grid_sample`): shear, scale, rotate, shift."""
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
    chosen = torch.from_numpy(np.flatnonzero(draws("flip") < 0.5))
    for rows in chosen.split(max(1, _CACHED // images[0].numel())):
        at = int(rows) if len(rows) == 1 else rows  # one image is a view: neither gathered nor scattered
        images[at] = images[at].flip(-1)
    return images


def _pad_crop(images: UInt8[Tensor, "B C H W"], pad: int, draws: Draws) -> UInt8[Tensor, "B C H W"]:
    batch, _, height, width = images.shape
    top, left = (torch.from_numpy((draws(name) * (2 * pad + 1)).astype(np.int64)) for name in ("pad.y", "pad.x"))
    rows = (top[:, None] + torch.arange(height))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, None, :]
    padded = F.pad(images, (pad, pad, pad, pad))
    return padded[torch.arange(batch)[:, None, None, None], torch.arange(images.shape[1])[:, None, None], rows, columns]


def _affine(
    images: UInt8[Tensor, "B C H W"], matrices: Float64[np.ndarray, "B 2 3"], outside: str
) -> UInt8[Tensor, "B C H W"]:
    """Bicubic. `Augment.outside` says which pixels come from outside the image.

    Not bilinear: on 8×8 digits its blur, which no test image has, costs a whole point of accuracy (docs/log.md).
    """
    height, width = images.shape[-2:]
    x, y = ((2 * torch.arange(side) + 1) / side - 1 for side in (width, height))
    m = torch.from_numpy(matrices).float()[..., None, None]
    grid = torch.stack([m[:, row, 0] * x + (m[:, row, 1] * y[:, None] + m[:, row, 2]) for row in (0, 1)], dim=-1)
    moved = F.grid_sample(images.float(), grid, mode="bicubic", padding_mode=outside, align_corners=False)
    return moved.add_(0.5).clamp_(0, 255).to(torch.uint8)


def _jitter(images: UInt8[Tensor, "B C H W"], most: float, draws: Draws) -> UInt8[Tensor, "B C H W"]:
    """Brightness, contrast about the mean grey, saturation about each pixel's grey; rounded once, at the end."""

    def factor(name: str) -> Float32[Tensor, "B 1 1 1"]:
        return torch.from_numpy(1 + most * _signed(draws(name))).float()[:, None, None, None]

    x = images.float() * factor("jitter.brightness")
    grey = _luma(x)
    # summed in float64, image by image: the same bits whatever the batch
    mean = torch.stack([image.mean(dtype=torch.float64) for image in grey]).float()[:, None, None, None]
    contrast, saturation = factor("jitter.contrast"), factor("jitter.saturation")
    x = mean + contrast * (x - mean)
    if images.shape[1] == 3:
        grey = _luma(x)
        x = grey + saturation * (x - grey)
    return x.round_().clamp_(0, 255).to(torch.uint8)


def _luma(x: Float32[Tensor, "B C H W"]) -> Float32[Tensor, "B 1 H W"]:
    """Rec. 601 for RGB, the mean of any other channels."""
    if x.shape[1] == 3:
        return 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
    return x.mean(1, keepdim=True)


def _erase(images: UInt8[Tensor, "B C H W"], probability: float, draws: Draws) -> UInt8[Tensor, "B C H W"]:
    """A box of 2 % to 33 % of the area and aspect 0.3 to 3.3 becomes noise, cut from one long strip of it."""
    channels, height, width = images.shape[1:]
    area = height * width * (0.02 + 0.31 * draws("erase.area"))
    aspect = 0.3 * (3.3 / 0.3) ** draws("erase.aspect")
    h = np.rint(np.sqrt(area * aspect)).clip(1, height).astype(int)
    w = np.rint(np.sqrt(area / aspect)).clip(1, width).astype(int)
    top, left = (draws("erase.y") * (height - h + 1)).astype(int), (draws("erase.x") * (width - w + 1)).astype(int)
    strip, starts = _noise(channels * height * width), draws("erase.noise")
    for i in np.flatnonzero(draws("erase") < probability).tolist():
        size = (channels, h[i], w[i])
        start = int(starts[i] * (len(strip) - channels * h[i] * w[i]))
        noise = strip[start : start + channels * h[i] * w[i]].view(size)
        images[i, :, top[i] : top[i] + h[i], left[i] : left[i] + w[i]] = noise
    return images


@cache
def _noise(pixels: int) -> UInt8[Tensor, "M"]:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, pixels + 65536, dtype=np.uint8))
