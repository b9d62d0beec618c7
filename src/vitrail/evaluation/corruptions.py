"""Common corruptions at five severities, after ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261), made here.

The 15 kinds of the benchmark and its 4 extra ones, from the paper's descriptions and severities. Two differ by
necessity: frost is drawn (the benchmark pastes photographs of frost), and so is spatter's mud. So numbers compare
models with one another here, and are near the benchmark's, not equal to them. Lengths in pixels are for a short side
of 224 and scale with it, so that severity 3 is as hard on 32 pixels as on 224.

Deterministic: a corruption is a function of the image, the severity, the seed and the sample's number.
"""

import io
import zlib
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import conv2d, grid_sample, interpolate, pad

from vitrail.errors import ConfigError, suggest

SEVERITIES = (1, 2, 3, 4, 5)

Pixels = Float[np.ndarray, "H W C"]
"""float64, 0 to 1."""
Corruption = Callable[[Pixels, int, np.random.Generator], Pixels]


def corrupt(
    image: UInt8[np.ndarray, "H W C"], name: str, severity: int, *, seed: int = 0, sample: int = 0
) -> UInt8[np.ndarray, "H W C"]:
    """The image, corrupted. Grey images stay grey. Raises ConfigError for an unknown name or severity."""
    check(name, severity)
    draws = np.random.default_rng([seed, zlib.crc32(name.encode()), severity, sample])
    colour = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    changed = CORRUPTIONS[name](colour / 255.0, severity - 1, draws)
    changed = np.clip(np.round(255 * changed), 0, 255).astype(np.uint8)
    if image.shape[2] == 1:  # a drop of coloured mud on a grey image is grey
        changed = np.round(changed @ np.array([0.299, 0.587, 0.114]))[:, :, None].astype(np.uint8)
    return changed


def check(name: str, severity: int) -> None:
    if name not in CORRUPTIONS:
        raise ConfigError(
            f"corruption {name!r} is unknown", allowed=", ".join(CORRUPTIONS), next_step=suggest(name, CORRUPTIONS)
        )
    if severity not in SEVERITIES:
        raise ConfigError(f"severity {severity}", allowed="1 to 5")


# --- noise -----------------------------------------------------------------------------------------------------------


def gaussian_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    return x + draws.normal(scale=(0.08, 0.12, 0.18, 0.26, 0.38)[s], size=x.shape)


def shot_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Photons counted: Poisson, the fewer the noisier."""
    photons = (60, 25, 12, 5, 3)[s]
    return draws.poisson(x * photons) / photons


def impulse_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Salt and pepper: values replaced by 0 or 1."""
    hit = draws.random(x.shape) < (0.03, 0.06, 0.09, 0.17, 0.27)[s]
    return np.where(hit, draws.integers(0, 2, x.shape), x)


def speckle_noise(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Noise in proportion to the brightness."""
    return x + x * draws.normal(scale=(0.15, 0.2, 0.35, 0.45, 0.6)[s], size=x.shape)


# --- blur ------------------------------------------------------------------------------------------------------------


def gaussian_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    return _gaussian(x, (1, 2, 3, 4, 6)[s] * _unit(x))


def defocus_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """A disk, its edge softened."""
    radius, soft = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))[s]
    return _filter(x, _disk(radius * _unit(x), soft))


def glass_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Pixels swapped with near ones, between two blurs, as through frosted glass."""
    sigma, reach, times = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))[s]
    unit = _unit(x)
    reach = max(1, round(reach * unit))
    x = _gaussian(x, sigma * unit)
    height, width = x.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(times):
        dy, dx = draws.integers(-reach, reach + 1, (2, height, width))
        x = x[np.clip(rows + dy, 0, height - 1), np.clip(columns + dx, 0, width - 1)]
    return _gaussian(x, sigma * unit)


def motion_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Along a line at a random angle, fading as a Gaussian."""
    radius, sigma = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))[s]
    return _motion(x, radius * _unit(x), sigma * _unit(x), draws.uniform(-45, 45))


def zoom_blur(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """The mean of the image and of itself, ever nearer."""
    end, step = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))[s]
    zooms = np.arange(1, end, step)
    return (x + sum(_zoom(x, zoom) for zoom in zooms)) / (len(zooms) + 1)


# --- weather ---------------------------------------------------------------------------------------------------------


def snow(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Flakes drawn by wind over a whitened image."""
    mean, deviation, zoom, threshold, radius, sigma, kept = (
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    )[s]
    unit = _unit(x)
    flakes = draws.normal(mean, deviation, (*x.shape[:2], 1))
    flakes = _zoom(flakes, max(1.0, zoom * unit))
    flakes = np.where(flakes < threshold, 0, np.clip(flakes, 0, 1))
    flakes = _motion(flakes, radius * unit, sigma * unit, draws.uniform(-135, -45))
    grey = _grey(x)[:, :, None]
    white = kept * x + (1 - kept) * np.maximum(x, 1.5 * grey + 0.5)
    return white + flakes + flakes[::-1, ::-1]


def frost(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Crystals of ice, drawn: bright ridges where two fields of fractal noise cross their middle."""
    kept, ice = ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))[s]
    coarse, fine = (_plasma(x.shape[:2], decay, draws) for decay in (1.9, 1.5))
    ridges = np.exp(-np.abs(coarse - 0.5) * 12) + 0.6 * np.exp(-np.abs(fine - 0.5) * 18)
    tint = np.array([0.78, 0.88, 1.0])
    return kept * x + ice * np.clip(ridges, 0, 1)[:, :, None] * tint


def fog(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Fractal clouds, the brightest point kept."""
    amount, decay = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))[s]
    brightest = x.max()
    return (x + amount * _plasma(x.shape[:2], decay, draws)[:, :, None]) * brightest / (brightest + amount)


def brightness(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """More value, in HSV."""
    hsv = _to_hsv(x)
    hsv[:, :, 2] = np.clip(hsv[:, :, 2] + (0.1, 0.2, 0.3, 0.4, 0.5)[s], 0, 1)
    return _from_hsv(hsv)


def spatter(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """Drops of water, from severity 4 of mud."""
    mean, deviation, sigma, threshold, strength = (
        (0.65, 0.3, 4, 0.69, 0.6),
        (0.65, 0.3, 3, 0.68, 0.6),
        (0.65, 0.3, 2, 0.68, 0.5),
        (0.65, 0.3, 1, 0.65, 1.5),
        (0.67, 0.4, 1, 0.65, 1.5),
    )[s]
    liquid = _gaussian(draws.normal(mean, deviation, (*x.shape[:2], 1)), max(0.5, sigma * _unit(x)))
    liquid = np.where(liquid < threshold, 0, liquid)
    if s < 3:
        cover = np.clip(_gaussian(liquid, 0.6) * strength, 0, 1)
        return x * (1 - 0.5 * cover) + cover * np.array([175, 238, 238]) / 255
    cover = np.clip(_gaussian((liquid > threshold) * 1.0, max(0.5, strength * _unit(x))), 0, 1)
    cover = np.where(cover < 0.8, 0, cover)
    return x * (1 - cover) + cover * np.array([63, 42, 20]) / 255


# --- digital ---------------------------------------------------------------------------------------------------------


def contrast(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    means = x.mean((0, 1), keepdims=True)
    return (x - means) * (0.4, 0.3, 0.2, 0.1, 0.05)[s] + means


def saturate(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    factor, offset = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))[s]
    hsv = _to_hsv(x)
    hsv[:, :, 1] = np.clip(hsv[:, :, 1] * factor + offset, 0, 1)
    return _from_hsv(hsv)


def elastic(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    """A random affine map, and smooth random displacements (Simard et al. 2003); lengths are shares of 244 pixels."""
    amount, sigma, affine = (
        (2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02),
    )[s]  # fmt: skip
    height, width = x.shape[:2]
    side = 244 * _unit(x)
    rows, columns = np.mgrid[:height, :width].astype(float)
    third = min(height, width) / 3
    down, across = (rows - height / 2) / third, (columns - width / 2) / third
    places = []
    for grid in (rows, columns):
        # three points, a third of the side from the middle, are moved: (1, 1), (1, -1) and (-1, -1) in (across, down)
        one, two, three = draws.uniform(-affine, affine, 3) * side
        moved = (one + three) / 2 + (two - three) / 2 * across + (one - two) / 2 * down
        smooth = _gaussian(draws.uniform(-1, 1, (height, width, 1)), sigma * side)[:, :, 0]
        places.append(grid + moved + smooth * amount * side)
    return _sample(x, *places)


def pixelate(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    share = (0.6, 0.5, 0.4, 0.3, 0.25)[s]
    height, width = x.shape[:2]
    small = (max(1, int(width * share)), max(1, int(height * share)))
    image = _to_pil(x).resize(small, Image.Resampling.BOX).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(image) / 255.0


def jpeg(x: Pixels, s: int, draws: np.random.Generator) -> Pixels:
    content = io.BytesIO()
    _to_pil(x).save(content, "JPEG", quality=(25, 18, 15, 10, 7)[s])
    return np.asarray(Image.open(content).convert("RGB")) / 255.0


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian-noise": gaussian_noise,
    "shot-noise": shot_noise,
    "impulse-noise": impulse_noise,
    "defocus-blur": defocus_blur,
    "glass-blur": glass_blur,
    "motion-blur": motion_blur,
    "zoom-blur": zoom_blur,
    "snow": snow,
    "frost": frost,
    "fog": fog,
    "brightness": brightness,
    "contrast": contrast,
    "elastic": elastic,
    "pixelate": pixelate,
    "jpeg": jpeg,
    "speckle-noise": speckle_noise,
    "gaussian-blur": gaussian_blur,
    "spatter": spatter,
    "saturate": saturate,
}
BENCHMARK = tuple(CORRUPTIONS)[:15]
"""The kinds that ImageNet-C's mean is over; the last four are its extra ones, meant for validation."""


# --- what they are made of -------------------------------------------------------------------------------------------


def _unit(x: Pixels) -> float:
    """What a pixel of the benchmark's 224 is here."""
    return min(x.shape[:2]) / 224


def _grey(x: Pixels) -> Float[np.ndarray, "H W"]:
    return x @ np.array([0.299, 0.587, 0.114])


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


def _motion(x: Pixels, radius: float, sigma: float, degrees: float) -> Pixels:
    """The mean of copies moved along a line, to one side as a shutter's trail, with Gaussian weights."""
    steps = np.arange(max(1, round(2 * radius)) + 1)
    weights = np.exp(-0.5 * (steps / max(sigma, 1e-6)) ** 2)
    rows, columns = np.mgrid[: x.shape[0], : x.shape[1]].astype(float)
    angle = np.deg2rad(degrees)
    moved = (
        weight * _sample(x, rows + step * np.sin(angle), columns + step * np.cos(angle))
        for step, weight in zip(steps, weights / weights.sum(), strict=True)
        if weight > 1e-4
    )
    return sum(moved, np.zeros_like(x))


def _sample(x: Pixels, rows: Float[np.ndarray, "H W"], columns: Float[np.ndarray, "H W"]) -> Pixels:
    """Bilinear values at places in pixels, mirrored beyond the edges."""
    height, width = x.shape[:2]
    place = np.stack([(2 * columns + 1) / width - 1, (2 * rows + 1) / height - 1], axis=-1)
    found = grid_sample(
        _tensor(x), torch.from_numpy(place)[None], mode="bilinear", padding_mode="reflection", align_corners=False
    )
    return _array(found)


def _zoom(x: Pixels, factor: float) -> Pixels:
    """The middle 1 / factor of the image, at the size of all of it."""
    height, width = x.shape[:2]
    high, wide = max(1, round(height / factor)), max(1, round(width / factor))
    top, left = (height - high) // 2, (width - wide) // 2
    middle = _tensor(x[top : top + high, left : left + wide])
    return _array(interpolate(middle, size=(height, width), mode="bilinear", align_corners=False))


def _plasma(shape: tuple[int, ...], decay: float, draws: np.random.Generator) -> Float[np.ndarray, "H W"]:
    """Fractal noise from 0 to 1 (diamond-square): at each halving of the grid the noise shrinks by `decay`."""
    size = 1 << max(3, int(np.ceil(np.log2(max(shape)))))
    field, step, amount = np.zeros((size, size)), size, 1.0
    while step >= 2:
        half = step // 2
        corners = field[::step, ::step]
        centre = (corners + np.roll(corners, -1, 0) + np.roll(corners, -1, 1) + np.roll(corners, (-1, -1), (0, 1))) / 4
        field[half::step, half::step] = centre + amount * draws.uniform(-1, 1, centre.shape)
        centre = field[half::step, half::step]
        above = (centre + np.roll(centre, 1, 0) + corners + np.roll(corners, -1, 1)) / 4
        beside = (centre + np.roll(centre, 1, 1) + corners + np.roll(corners, -1, 0)) / 4
        field[::step, half::step] = above + amount * draws.uniform(-1, 1, above.shape)
        field[half::step, ::step] = beside + amount * draws.uniform(-1, 1, beside.shape)
        step, amount = half, amount / decay
    field = field[: shape[0], : shape[1]] - field[: shape[0], : shape[1]].min()
    return field / max(field.max(), 1e-12)


def _to_hsv(x: Pixels) -> Float[np.ndarray, "H W three"]:
    """Hue in sixths of a turn, saturation and value from 0 to 1."""
    value, chroma = x.max(2), x.max(2) - x.min(2)
    safe = np.where(chroma > 0, chroma, 1)
    r, g, b = x[:, :, 0], x[:, :, 1], x[:, :, 2]
    hue = np.select(
        [chroma == 0, value == r, value == g], [0, ((g - b) / safe) % 6, (b - r) / safe + 2], (r - g) / safe + 4
    )
    return np.stack([hue, np.where(value > 0, chroma / np.where(value > 0, value, 1), 0), value], axis=2)


def _from_hsv(hsv: Float[np.ndarray, "H W three"]) -> Pixels:
    hue, saturation, value = hsv[:, :, 0], hsv[:, :, 1], hsv[:, :, 2]
    k = (np.array([5, 3, 1]) + hue[:, :, None]) % 6
    return (value[:, :, None] - (value * saturation)[:, :, None] * np.clip(np.minimum(k, 4 - k), 0, 1)).astype(
        np.float64
    )


def _to_pil(x: Pixels) -> Image.Image:
    return Image.fromarray(np.clip(np.round(255 * x), 0, 255).astype(np.uint8))
