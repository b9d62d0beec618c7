"""Common corruptions at five severities, after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261).

Twelve of its nineteen kinds, with the published severities: noise, blur and digital ones. Its frosted glass, motion, weather
and elastic kinds are not here, so a mean over these is not the benchmark's. Numbers compare models with one another. Lengths
in pixels are for a short side of 224 and scale with it: severity 3 is as hard on 32 pixels as on 224.

A corruption is a function of the image, the severity, the seed and the sample's number.
"""

import io
import zlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from vitrail.errors import ConfigError
from vitrail.registry import Registry

SEVERITIES = (1, 2, 3, 4, 5)

Pixels = Float[np.ndarray, "H W C"]
"""float64, 0 to 1."""
Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]
CORRUPTIONS = Registry[Corruption]("corruption")
"""(pixels, severity from 0, draws) -> pixels."""


def corrupt(
    image: UInt8[np.ndarray, "H W C"], name: str, severity: int, *, seed: int = 0, sample: int = 0
) -> UInt8[np.ndarray, "H W C"]:
    """The image, corrupted; grey images stay grey. Raises ConfigError for an unknown name or severity."""
    check(name, severity)
    draws = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, sample])
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    changed = np.clip(np.round(255 * CORRUPTIONS[name](colour / 255.0, severity - 1, draws)), 0, 255)
    if image.shape[2] == 1:
        changed = np.round(changed @ np.array([0.299, 0.587, 0.114]))[:, :, None]
    return changed.astype(np.uint8)


def check(name: str, severity: int) -> None:
    """Raises ConfigError for an unknown corruption or severity."""
    _ = CORRUPTIONS[name]
    if severity not in SEVERITIES:
        raise ConfigError(f"severity {severity}", allowed="1 to 5")


# --- noise ---------------------------------------------------------------------------------------------------------------


@CORRUPTIONS.register("gaussian-noise")
def gaussian_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    return x + draws.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[s], size=x.shape)


@CORRUPTIONS.register("shot-noise")
def shot_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Photons counted: Poisson, the fewer the noisier."""
    photons = (60, 25, 12, 5, 3)[s]
    return draws.poisson(x * photons) / photons


@CORRUPTIONS.register("impulse-noise")
def impulse_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Salt and pepper: values replaced by 0 or 1."""
    hit = draws.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[s]
    return np.where(hit, draws.integers(0, 2, x.shape), x)


@CORRUPTIONS.register("speckle-noise")
def speckle_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Noise in proportion to the brightness."""
    return x + x * draws.normal(scale=(0.15, 0.2, 0.35, 0.45, 0.6)[s], size=x.shape)


# --- blur ----------------------------------------------------------------------------------------------------------------


@CORRUPTIONS.register("gaussian-blur")
def gaussian_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    return _gaussian(x, (1, 2, 3, 4, 6)[s] * _unit(x))


@CORRUPTIONS.register("defocus-blur")
def defocus_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """A disk, its edge softened."""
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[s]
    return _filter(x, _disk(radius * _unit(x), soft))


@CORRUPTIONS.register("zoom-blur")
def zoom_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """The mean of the image and of itself, ever nearer."""
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[s]
    zooms = np.arange(1, end, step)
    return (x + sum(_zoom(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# --- digital -------------------------------------------------------------------------------------------------------------


@CORRUPTIONS.register("brightness")
def brightness(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """More value in HSV: hue and saturation stay, so the colour is scaled."""
    value = x.max(2, keepdims=True)
    brighter = np.minimum(value + (0.1, 0.2, 0.3, 0.4, 0.5)[s], 1)
    return np.where(value > 0, x * brighter / np.maximum(value, 1e-12), brighter)


@CORRUPTIONS.register("contrast")
def contrast(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    means = x.mean((0, 1), keepdims=True)
    return (x - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[s] + means


@CORRUPTIONS.register("saturate")
def saturate(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Another saturation in HSV: each channel's distance from the value is scaled. Grey pixels have the hue of red."""
    factor, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[s]
    value = x.max(2, keepdims=True)
    chroma = value - x.min(2, keepdims=True)
    saturation = np.clip(factor * chroma / np.maximum(value, 1e-12) + offset, 0, 1)
    distance = np.where(chroma > 0, (value - x) / np.maximum(chroma, 1e-12), [0.0, 1.0, 1.0])
    return value * (1 - saturation * distance)


@CORRUPTIONS.register("pixelate")
def pixelate(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[s]
    height, width = x.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    image = _to_pil(x).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image) / 255.0


@CORRUPTIONS.register("jpeg")
def jpeg(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    content = io.BytesIO()
    _to_pil(x).save(content, "JPEG", quality=(25, 18, 15, 10, 7)[s])
    return np.asarray(Image.open(content).convert("RGB")) / 255.0


# --- building blocks --------------------------------------------------------------------------------------------------


def _unit(x: Pixels) -> float:
    """One pixel of the benchmark's 224, in pixels of this image."""
    return min(x.shape[:2]) / 224


def _tensor(x: Pixels) -> Float[Tensor, "1 C H W"]:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(2, 0, 1)))[None].double()


def _array(x: Float[Tensor, "1 C H W"]) -> Pixels:
    return x[0].numpy().transpose(1, 2, 0)


def _filter(x: Pixels, kernel: Float[np.ndarray, "h w"]) -> Pixels:
    """Each channel with the kernel, odd in both lengths; edges are mirrored, where the image is large enough for it."""
    image = _tensor(x)
    high, wide = kernel.shape[0] // 2, kernel.shape[1] // 2
    mirrored = high < image.shape[2] and wide < image.shape[3]
    image = pad(image, (wide, wide, high, high), mode="reflect" if mirrored else "replicate")
    weight = torch.from_numpy(kernel)[None, None].float()  # float32: five times faster, and exact to 1e-6
    return _array(conv2d(image.float().transpose(0, 1), weight).transpose(0, 1).double())


def _bell(sigma: float, longest: int = 1 << 16) -> Float[np.ndarray, "n"]:
    reach = min(max(1, round(4 * sigma)), longest)
    bell = np.exp(-0.5 * (np.arange(-reach, reach + 1) / max(sigma, 1e-6)) ** 2)
    return bell / bell.sum()


def _gaussian(x: Pixels, sigma: float) -> Pixels:
    bell = _bell(sigma, min(x.shape[:2]) - 1)
    return _filter(_filter(x, bell[:, None]), bell[None, :])


def _disk(radius: float, soft: float) -> Float[np.ndarray, "n n"]:
    reach = int(np.ceil(radius + 2 * soft))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0, 1)  # a pixel on the rim counts in part
    bell = _bell(soft)
    disk = _filter(_filter(disk[:, :, None], bell[:, None]), bell[None, :])[:, :, 0]
    return disk / disk.sum()


def _zoom(x: Pixels, factor: float) -> Pixels:
    """The middle 1 / factor of the image, at the size of all of it."""
    height, width = x.shape[:2]
    high, wide = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = (height - high) // 2, (width - wide) // 2
    middle = _tensor(x[top : top + high, left : left + wide])
    return _array(interpolate(middle, size=(height, width), mode="bilinear", align_corners=False))


def _to_pil(x: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.round(255 * x), 0, 255).astype(np.uint8))
