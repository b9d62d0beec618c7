"""Decodes mutated pictures and counts what becomes of them: `python -m tests.support.mutations 1000` prints JSON.

A process of its own, so that a crash, a hang or a leak shows as what it is.
"""

import json
import resource
import sys
import time
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import Image

from tests.support.photographs import encoded, photograph
from vitrail.errors import DecodeError
from vitrail.images.decode import decode, decode_region

LIMIT = (
    1_000_000  # pixels: a header that was made to declare more is refused, and memory tells leaks from large pictures
)


def seeds(count: int = 40) -> Iterator[bytes]:
    """Real pictures, each written by eight encoders."""
    for index in range(count):
        image = photograph(index, (48 + index % 7, 40 + index % 5))
        yield encoded(image, "JPEG", quality=85)
        yield encoded(image, "JPEG", progressive=True)
        yield encoded(image, "PNG")
        yield encoded(image.quantize(32), "PNG", transparency=3)
        yield encoded(image, "WEBP")
        yield encoded(image.quantize(32), "GIF")
        yield encoded(image, "TIFF", compression="tiff_lzw")
        yield encoded(Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), "PNG")


def mutated(content: bytes, other: bytes, random: np.random.Generator) -> bytes:
    """One of: bits flipped, cut short, a piece of another file spliced in, four bytes (a length, a size) made extreme."""
    data = bytearray(content)
    kind = random.integers(4)
    at = int(random.integers(len(data)))
    if kind == 0:
        for place in random.integers(0, len(data), random.integers(1, 9)):
            data[place] ^= 1 << int(random.integers(8))
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        start = int(random.integers(len(other)))
        data[at : at + 64] = other[start : start + int(random.integers(1, 256))]
    else:
        at = int(random.integers(min(64, len(data)))) if random.random() < 0.7 else at
        data[at : at + 4] = bytes(random.choice(np.array([0, 0, 127, 255, 255], np.uint8), 4))
    return bytes(data)


def outcome(content: bytes) -> str:
    """The same question to both readers; anything but an array or a DecodeError goes up as it is."""
    found = []
    for read in (
        lambda: decode(content, key="x", limit=LIMIT),
        lambda: decode_region(content, lambda height, width: (0, 0, width, height), (8, 8), key="x", limit=LIMIT),
    ):
        try:
            found.append("picture" if read().dtype == np.uint8 else "?")
        except DecodeError:
            found.append("error")
    return found[0]


def sweep(count: int) -> dict[str, float]:
    random, pictures = np.random.default_rng(0), list(seeds())
    counts = {"picture": 0, "error": 0}
    slowest, memory = 0.0, []
    for number in range(count):
        content = mutated(pictures[number % len(pictures)], pictures[int(random.integers(len(pictures)))], random)
        started = time.perf_counter()
        counts[outcome(content)] += 1
        slowest = max(slowest, time.perf_counter() - started)
        if number % (count // 10) == count // 10 - 1:
            memory.append(resident())
    return {**counts, "slowest": slowest, "kib_per_1000": float(np.median(np.diff(memory))) * 10_000 / count}


def resident() -> int:
    """KiB of memory this process holds."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() // 1024


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(json.dumps(sweep(int(sys.argv[1]))))
