"""TIFFs of any number of channels, and with one plane after the other, which Pillow does not read or cuts to three.

A sample beside grey or RGB that is not declared to be alpha is a channel like the others. Strips and tiles of 8 or 16 bits,
uncompressed or deflated; of several pages the first.
"""

import io
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from vitrail.errors import DecodeError

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, SAMPLES, ROWS, COUNTS, PLANAR, PREDICTOR = 273, 277, 278, 279, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_COUNTS, EXTRA, FORMAT = 322, 323, 324, 325, 338, 339
_COLOURS = {0: 1, 1: 1, 2: 3}  # grey, inverted or not, and RGB: the samples that are not extra
_DEFLATE = (8, 32946)
_KINDS = {(1, 8): np.dtype("u1"), (1, 16): np.dtype("u2"), (3, 32): np.dtype("f4"), (3, 64): np.dtype("f8")}
"""(sample format, bits) -> numbers: without a sign, floating point."""


def channels_tags(content: bytes) -> Any:
    """The first page's tags where this module reads the file; None where Pillow does."""
    file = io.BytesIO(content)
    tags = ImageFileDirectory_v2(file.read(8))
    entries = int.from_bytes(content[tags.next : tags.next + 2], "little" if tags._endian == "<" else "big")
    if tags.next + 6 + 12 * entries > len(content):  # of which Pillow would only warn
        raise DecodeError("a TIFF whose directory is cut off")
    file.seek(tags.next)
    tags.load(file)
    _check_tiles(tags)
    samples, colours = tags.get(SAMPLES, 1), _COLOURS.get(tags.get(PHOTOMETRIC, 1))
    if colours is None or samples == 1:
        return None
    extra = tuple(tags.get(EXTRA, ()))[: samples - colours]
    alpha = len(extra) == 1 == samples - colours and extra[0] in (1, 2)
    if samples == colours or alpha:
        return tags if tags.get(PLANAR, 1) == 2 and not alpha else None
    return tags


def _check_tiles(tags: Any) -> None:
    """A tile is decoded whole, so none may be larger than the image, rounded up to the 16 pixels tiles are made of."""
    for tile, side in ((TILE_WIDTH, WIDTH), (TILE_HEIGHT, HEIGHT)):
        size, most = tags.get(tile, 1), -(-tags.get(side, 1) // 16) * 16
        if not 0 < size <= max(most, 256):
            raise DecodeError(f"a TIFF with tiles of {size:,} pixels", allowed=f"up to {max(most, 256):,}")


def read_channels(content: bytes, tags: Any) -> UInt8[np.ndarray, "H W C"]:
    """The pixels at 8 bits. Raises DecodeError for other numbers than _KINDS and what is neither uncompressed nor deflated."""
    samples, height, width = tags[SAMPLES], tags[HEIGHT], tags[WIDTH]
    kinds = {*zip(tags.get(FORMAT, (1,)) * samples, tags.get(BITS, (1,)) * samples, strict=False)}
    kind, packing, predictor = min(kinds), tags.get(COMPRESSION, 1), tags.get(PREDICTOR, 1)
    if len(kinds) > 1 or kind not in _KINDS or packing not in (1, *_DEFLATE) or predictor > (2 if kind[0] == 1 else 1):
        raise DecodeError(
            f"a TIFF of {samples} channels with {kind[1]} bits, sample format {kind[0]}, compression {packing}",
            allowed="8 or 16 bits without a sign or floating point, uncompressed or deflated",
            next_step="save it so, or as .npy",
        )
    planar = tags.get(PLANAR, 1) == 2
    pixels = np.zeros((height, width, samples), _KINDS[kind])
    for (top, left, channel), block in _blocks(content, tags, pixels, planar):
        part = pixels[top : top + block.shape[0], left : left + block.shape[1]]
        block = block[: part.shape[0], : part.shape[1]]
        if planar:
            part[..., channel] = block[..., 0]
        else:
            part[...] = block
    if pixels.dtype.kind == "f":
        pixels = from_floats(pixels)
    pixels = pixels if pixels.dtype == np.uint8 else np.rint(pixels / 257).astype(np.uint8)
    return 255 - pixels if tags.get(PHOTOMETRIC, 1) == 0 else pixels


def from_floats(values: Shaped[np.ndarray, "*S"]) -> UInt8[np.ndarray, "*S"]:
    """× 255 where all are in 0 … 1, as they are where in 0 … 255; anything else, NaN too, is a DecodeError."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # written so that NaN fails it
        raise DecodeError(f"floating-point values of {low:g} to {high:g}", allowed="0 to 1, or 0 to 255")
    return np.rint(values * 255 if high <= 1 else values).astype(np.uint8)


def _blocks(
    content: bytes, tags: Any, pixels: Shaped[np.ndarray, "H W C"], planar: bool
) -> Iterator[tuple[tuple[int, int, int], Shaped[np.ndarray, "h w c"]]]:
    """(top, left, channel) and the pixels of every strip or tile."""
    height, width, samples = pixels.shape
    if tiled := TILE_OFFSETS in tags:
        tall, wide, offsets, counts = (tags[tag] for tag in (TILE_HEIGHT, TILE_WIDTH, TILE_OFFSETS, TILE_COUNTS))
    else:
        tall, wide, offsets, counts = min(tags.get(ROWS, height), height), width, tags[OFFSETS], tags[COUNTS]
    down, across = -(-height // tall), -(-width // wide)
    if len(offsets) != down * across * (samples if planar else 1) or len(counts) != len(offsets):
        raise DecodeError(f"a TIFF of {len(offsets)} strips where {down * across} belong")
    for number, (start, size) in enumerate(zip(offsets, counts, strict=True)):
        channel, place = divmod(number, down * across)
        top, left = place // across * tall, place % across * wide
        rows = tall if tiled else min(tall, height - top)
        shape = (rows, wide, 1 if planar else samples)
        yield (top, left, channel), _block(content[start : start + size], shape, pixels.dtype, tags)


def _block(packed: bytes, shape: tuple[int, int, int], dtype: np.dtype, tags: Any) -> Shaped[np.ndarray, "h w c"]:
    size = shape[0] * shape[1] * shape[2] * dtype.itemsize
    data = packed if tags.get(COMPRESSION, 1) == 1 else zlib.decompressobj().decompress(packed, size)
    if len(data) < size:
        raise DecodeError(f"a TIFF with a strip of {len(data):,} bytes where {size:,} belong")
    order = "<" if tags._endian == "<" else ">"
    block = np.frombuffer(data, dtype.newbyteorder(order), size // dtype.itemsize).reshape(shape).astype(dtype)
    return np.cumsum(block, axis=1, dtype=dtype) if tags.get(PREDICTOR, 1) == 2 else block
