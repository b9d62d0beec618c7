"""Checks of configs and of image shapes. Errors say what was found and what would fit."""

import math

from torch import Tensor

from vitrail.errors import ConfigError, ShapeError

Grid = tuple[int, int]
"""Rows and columns (h, w) of patches."""


MOST, DEEPEST, MOST_PIXELS = 1 << 20, 1000, 1 << 28
"""The largest width, depth and image that a config may ask for: far above all models there are. A file may claim any."""


def at_least(config: object, least: int, *names: str) -> None:
    """ConfigError unless these fields, or all numbers in them, are so large, and not absurdly large; None is left out."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, str):
            raise ConfigError(f"{name} = {value!r}", allowed=f"a number, {least} or more")
        numbers = (value if isinstance(value, tuple) else (value,)) if value is not None else ()
        most = DEEPEST if "depth" in name else MOST
        if any(not least <= number <= most for number in numbers) or ("depth" in name and sum(numbers) > most):
            raise ConfigError(f"{name} = {value}", allowed=f"{least} to {most:,}")


def epsilons(config: object, *names: str) -> None:
    """ConfigError unless these fields are small numbers above 0."""
    for name in names:
        if not 0 < getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}", allowed=f"0 < {name} < 1")


def probabilities(config: object, *names: str) -> None:
    """ConfigError unless these fields lie in [0, 1)."""
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ConfigError(f"{name} = {getattr(config, name)}", allowed=f"0 ≤ {name} < 1")


def check_images(images: Tensor, channels: int) -> None:
    """ShapeError unless these are images of that many channels, of a pixel at least, and not of whole numbers."""
    if not hasattr(images, "ndim"):
        raise ShapeError(
            f"images as a {type(images).__name__}",
            allowed=f"a tensor, batch × {channels} × height × width",
            next_step="use vitrail.predict, which reads files too",
        )
    if images.ndim != 4 or images.shape[1] != channels or 0 in images.shape[2:]:
        raise ShapeError(
            f"images of shape {'×'.join(map(str, images.shape))} for a model of {channels} channels",
            allowed=f"batch × {channels} × height × width",
            next_step="choose images of these channels, or a model built with channels=…",
        )

    if not images.is_floating_point():
        raise ShapeError(
            f"images of {str(images.dtype).removeprefix('torch.')}",
            allowed="numbers with a point, normalised as the model was trained",
            next_step="use model.record.preprocess.normalise(images), or vitrail.predict, which reads files too",
        )


def patch_grid(image: tuple[int, int], patch: tuple[int, int]) -> Grid:
    """(h, w) of an image of H×W pixels, or ShapeError with two ways out."""
    (H, W), (p, q) = image, patch
    if H * W > MOST_PIXELS:
        raise ShapeError(f"image {H}×{W}", allowed=f"{MOST_PIXELS:,} pixels")
    if not H or not W or H % p or W % q:
        nearest = f"{max(1, round(H / p)) * p}×{max(1, round(W / q)) * q}"
        divisors = _nearest_divisor(H, p), _nearest_divisor(W, q)
        sizes = str(divisors[0]) if divisors[0] == divisors[1] else str(divisors)
        is_near = all(wanted / 2 <= found <= 2 * wanted for found, wanted in zip(divisors, patch, strict=True))
        other = f", or build a model with patch={sizes}" if is_near else ""
        raise ShapeError(
            f"image {H}×{W} does not divide into {p}×{q} patches", next_step=f"resize to {nearest}" + other
        )
    return H // p, W // q


def _nearest_divisor(size: int, wanted: int) -> int:
    divisors = [d for d in range(1, size + 1) if size % d == 0]
    return min(divisors, key=lambda d: abs(math.log(d / wanted)), default=1)
