"""Images that show nearly the same: saved again, smaller, brighter, mirrored, or cropped at the edges.

Each image has a difference hash of 64 bits, one of its mirror image, and one of each of 18 crops. Two images whose hashes
differ in few bits are compared by their pixels, as far as a gain allows.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8, UInt64
from torch import Tensor

from vitrail.images.decode import as_channels
from vitrail.images.exact_duplicates import Joined
from vitrail.images.preprocess import resize

NEAR_BITS = 3
"""Bits of 64 by which the difference hashes of near duplicates may differ."""
NEAR_LEVELS = 6.0
"""Levels of 255, the mean over thumbnails, by which their pixels may."""
CROP_LEVELS = 9.0
"""The same of a crop, which is known to a hundredth of a side only."""
GAIN = 1.25
"""Most times brighter, or darker, than its copy."""
SMALLEST = 32
"""Pixels of the shorter side below which near duplicates are not looked for: small pictures are all alike."""
CROPPED = 5_000
"""Images above which cropped copies are not looked for: the work grows with the square."""
MARGIN = 2.0
"""Levels by which a pixel must be brighter than its neighbour: noise on a plain background says nothing."""
_SIDE, _THUMBNAIL = 64, 16
_KEPT = (61, 58)  # of 64: crops that lose 5 and 9 % of each side
BOXES = [(top, left, kept) for kept in _KEPT for top, left in product((0, (_SIDE - kept) // 2, _SIDE - kept), repeat=2)]
"""(top, left, side) of each crop, of an image of 64 × 64."""


@dataclass(frozen=True, eq=False)
class Print:
    """The few numbers by which an image is found again."""

    whole: int
    mirrored: int
    crops: UInt64[np.ndarray, "B"]
    thumbnail: UInt8[np.ndarray, "3 16 16"]


def fingerprint(image: UInt8[np.ndarray, "H W 3"]) -> Print:
    """The hashes of an image, of its mirror image and of its crops, and its thumbnail."""
    grey = resize(as_channels(image, 1), (_SIDE, _SIDE), "bilinear").float()
    parts = [grey, grey.flip(2), *(grey[:, top : top + kept, left : left + kept] for top, left, kept in BOXES)]
    whole, mirrored, *crops = (_hash(part) for part in parts)
    return Print(whole, mirrored, np.array(crops, np.uint64), _thumbnail(image))


def find_near(prints: Sequence[Print], read: Callable[[int], UInt8[np.ndarray, "H W 3"]]) -> list[list[int]]:
    """Groups of images that show nearly the same, each in ascending order. `read` gives an image again, to compare a crop.

    An image is in one group: what is near to one of its members is near to all.
    """
    count = len(prints)
    hashes = np.array([one.whole for one in prints] + [one.mirrored for one in prints], np.uint64)
    thumbnails = [one.thumbnail for one in prints] + [one.thumbnail[..., ::-1] for one in prints]
    joined = Joined((first % count, second % count) for first, second in _pairs(hashes, thumbnails))
    for first, box, second in _cropped(prints, hashes) if count <= CROPPED else ():
        apart = joined.root(first) != joined.root(second % count)
        if apart and _is_crop(read(first), BOXES[box], thumbnails[second]):
            joined.join(first, second % count)
    return joined.groups()


def _hash(grey: Float[Tensor, "1 h w"]) -> int:
    """64 bits: whether each pixel of an 8 × 9 picture is brighter than its left neighbour, by a margin."""
    small = F.interpolate(grey[None], (8, 9), mode="bilinear", antialias=True)[0, 0].numpy()
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1] + MARGIN).tobytes(), "big")


def _thumbnail(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "3 16 16"]:
    return resize(image, (_THUMBNAIL, _THUMBNAIL), "bilinear").numpy()


def _difference(one: UInt8[np.ndarray, "3 16 16"], other: UInt8[np.ndarray, "3 16 16"]) -> float:
    """Mean levels between two thumbnails, the first as bright as the second as far as `GAIN` allows."""
    first, second = one.astype(np.float32), other.astype(np.float32)
    gain = float((first * second).sum() / max(1.0, float(np.square(first).sum())))
    return float(np.abs(np.clip(gain, 1 / GAIN, GAIN) * first - second).mean())


def _pairs(
    hashes: UInt64[np.ndarray, "two_N"], thumbnails: Sequence[UInt8[np.ndarray, "3 16 16"]]
) -> Iterator[tuple[int, int]]:
    """Images, or mirrored ones, whose hashes are within NEAR_BITS and whose thumbnails are within NEAR_LEVELS.

    Hashes that differ in at most 3 bits agree in at least one of their four 16-bit quarters: only those are compared.
    """
    count = len(hashes) // 2
    for block in _candidates(hashes):
        for at, first in enumerate(block[:-1].tolist()):
            rest = block[at + 1 :]
            close = np.bitwise_count(hashes[rest] ^ hashes[first]) <= NEAR_BITS
            for other in rest[close].tolist():
                if first % count != other % count and _difference(thumbnails[first], thumbnails[other]) <= NEAR_LEVELS:
                    yield first, other


def _candidates(hashes: UInt64[np.ndarray, "N"]) -> Iterator[Int64[np.ndarray, "M"]]:
    for quarter in range(4):
        values = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(values, kind="stable")
        yield from (b for b in np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(b) > 1)


def _cropped(prints: Sequence[Print], hashes: UInt64[np.ndarray, "two_N"]) -> Iterator[tuple[int, int, int]]:
    """(image, number of its box, the image, or mirrored one, that looks like that crop by its hash)."""
    for first, one in enumerate(prints):
        near = np.bitwise_count(one.crops[:, None] ^ hashes[None]) <= NEAR_BITS
        near[:, [first, first + len(prints)]] = False
        for box, at in np.argwhere(near).tolist():
            yield first, box, at


def _is_crop(image: UInt8[np.ndarray, "H W 3"], box: tuple[int, int, int], other: UInt8[np.ndarray, "3 16 16"]) -> bool:
    height, width = image.shape[:2]
    top, left, kept = (value / _SIDE for value in box)
    rows = slice(round(top * height), round((top + kept) * height))
    columns = slice(round(left * width), round((left + kept) * width))
    return _difference(_thumbnail(np.ascontiguousarray(image[rows, columns])), other) <= CROP_LEVELS
