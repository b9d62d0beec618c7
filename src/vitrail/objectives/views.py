"""The two views of contrastive learning, as BYOL and MoCo v3 make them (arXiv 2006.07733, Table 6), on whole batches.

Every random number is a draw of (seed, epoch, sample, name): a view does not depend on which images are beside it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from vitrail.batches.batch import Batch
from vitrail.batches.draws import Draws
from vitrail.images.preprocess import Preprocess

Draw = Callable[[str], Float64[np.ndarray, "B"]]
"""A number in [0, 1) for each image, by name."""

BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.4, 0.4, 0.2, 0.1
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ViewSettings:
    """Of one of the two views: the crop's smallest share of the area, a flip or none, and probabilities."""

    crop: float = 0.08
    flip: bool = True
    colour: float = 0.8
    grey: float = 0.2
    blur: float = 1.0
    solarise: float = 0.0


def draws_of(batch: Batch, seed: int, generator: torch.Generator | None) -> Draws:
    """The draws of a batch's images; of images that are only measured, by their row and the generator."""
    if batch.numbers is not None:
        return Draws(seed, batch.numbers[:, 0].copy(), batch.numbers[:, 1].copy())
    rows = np.arange(len(batch))
    return Draws(0 if generator is None else generator.initial_seed(), np.zeros_like(rows), rows)


def view(
    images: Float[Tensor, "B C H W"], settings: ViewSettings, draw: Draw, preprocess: Preprocess
) -> Float[Tensor, "B C H W"]:
    """A crop of each image at the old size, mirrored or not; then jitter, grey, blur and solarisation, each or not.

    `images` are normalised by `preprocess`, and so is what comes out.
    """

    def numbers(name: str) -> Float[Tensor, "B 1 1 1"]:
        return torch.from_numpy(draw(name)).to(images)[:, None, None, None]

    pixels = preprocess.to_pixels(crop(images, settings, draw))
    changes = {
        "colour": lambda x: jitter(x, *(numbers(name) for name in ("brightness", "contrast", "saturation", "hue"))),
        "grey": lambda x: luma(x).expand_as(x),
        "blur": lambda x: blur(x, 0.1 + 1.9 * numbers("sigma").flatten()),
        "solarise": lambda x: torch.where(x < 0.5, x, 1 - x),
    }
    for name, change in changes.items():
        share = getattr(settings, name)
        if share > 0:
            pixels = torch.where(numbers(name) < share, change(pixels), pixels)
    return preprocess.from_pixels(pixels)


def crop(images: Float[Tensor, "B C H W"], settings: ViewSettings, draw: Draw) -> Float[Tensor, "B C H W"]:
    """The inception crop: a share of the area, width over height from 3/4 to 4/3, anywhere inside."""
    area = settings.crop + (1 - settings.crop) * draw("area")
    aspect = np.exp(math.log(4 / 3) * (2 * draw("aspect") - 1))
    width, height = (np.minimum(1.0, np.sqrt(area * by)) for by in (aspect, 1 / aspect))
    x, y = (2 * draw("x") - 1) * (1 - width), (2 * draw("y") - 1) * (1 - height)
    mirror = np.where(draw("flip") < 0.5, -1.0, 1.0) if settings.flip else np.ones_like(x)
    zero = np.zeros_like(x)
    theta = torch.from_numpy(np.stack([width * mirror, zero, x, zero, height, y], axis=1)).to(images).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def luma(pixels: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 H W"]:
    """Rec. 601 of RGB, the mean of any other channels."""
    if pixels.shape[1] != 3:
        return pixels.mean(1, keepdim=True)
    return (pixels * pixels.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)


def jitter(
    pixels: Float[Tensor, "B C H W"],
    brightness: Float[Tensor, "B 1 1 1"],
    contrast: Float[Tensor, "B 1 1 1"],
    saturation: Float[Tensor, "B 1 1 1"],
    hue: Float[Tensor, "B 1 1 1"],
) -> Float[Tensor, "B C H W"]:
    """Brightness and contrast of any image, saturation and hue of RGB; the numbers are draws in [0, 1).

    Hue turns colours about the axis of greys (the original goes through HSV; small turns look alike).
    """

    def factor(draw: Tensor, width: float) -> Tensor:
        return 1 + width * (2 * draw - 1)

    x = (pixels * factor(brightness, BRIGHTNESS)).clamp(0, 1)
    middle = luma(x).mean((2, 3), keepdim=True)
    x = (middle + (x - middle) * factor(contrast, CONTRAST)).clamp(0, 1)
    if pixels.shape[1] != 3:
        return x
    grey = luma(x)
    x = (grey + (x - grey) * factor(saturation, SATURATION)).clamp(0, 1)
    turned = torch.einsum("bij,bjhw->bihw", turn(2 * math.pi * HUE * (2 * hue.flatten() - 1)), x)
    return turned.clamp(0, 1)


def turn(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Rotations about the axis (1, 1, 1): cos·I + sin·[u]× + (1 - cos)·uuᵀ (Rodrigues)."""
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    cross = angle.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return cos * torch.eye(3, device=angle.device, dtype=angle.dtype) + sin * cross + (1 - cos) / 3


def blur(pixels: Float[Tensor, "B C H W"], sigma: Float[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    """A Gaussian of each image's own deviation, in pixels of a side of 224: the same share of smaller pictures."""
    batch, channels, height, width = pixels.shape
    x = pixels.reshape(1, batch * channels, height, width)
    for axis, side in ((3, width), (2, height)):
        scaled = (sigma * side / 224).clamp(min=1e-3)
        radius = min(side - 1, max(1, math.ceil(6 * side / 224)))  # three of the largest deviation
        at = torch.arange(-radius, radius + 1, device=pixels.device, dtype=pixels.dtype)
        kernel = torch.exp(-0.5 * (at / scaled[:, None]).square())
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
        shape = (-1, 1, 1, 2 * radius + 1) if axis == 3 else (-1, 1, 2 * radius + 1, 1)
        pad = (radius, radius, 0, 0) if axis == 3 else (0, 0, radius, radius)
        x = F.conv2d(F.pad(x, pad, mode="reflect"), kernel.view(shape), groups=batch * channels)
    return x.view_as(pixels)
