"""Bytes to pixels, by one table, for training, evaluation and prediction alike.

Nothing is allocated before the header was checked against the limit, nothing is clipped, nothing is replaced. The
table says for each way of storing a picture how it is read:

| stored                                  | given                                                                  |
|-----------------------------------------|------------------------------------------------------------------------|
| grey, 8 bits                            | as it is, 1 channel                                                    |
| black and white, 1 bit                  | 0 and 255, 1 channel                                                   |
| grey, 16 bits                           | value / 257, rounded, 1 channel (65,535 becomes 255)                   |
| grey, floating point                    | × 255 where all values are in 0 … 1; else as it is where in 0 … 255    |
| colour, 8 bits                          | as it is, 3 channels                                                   |
| colour, 16 bits                         | the upper byte (Pillow's reading; at most one level from value / 257)  |
| palette, CMYK, YCCK, YCbCr, HSV         | RGB                                                                    |
| grey or colour with alpha, or a colour key in 8 bits | laid on the background; grey stays 1 channel on a grey one  |
| a colour key in 16 bits                 | of grey laid on the background; of colour not applied                  |
| grey with alpha, 16 bits                | laid on the background, 3 channels                                     |
| animation, or several pages             | the first                                                              |
| turned or mirrored by EXIF              | upright                                                                |
| colour profile                          | not applied                                                            |
| TIFF with more channels, or one plane after the other | all channels, as above; uncompressed or deflated |
| .npy of uint8, uint16 or bool, H W or H W C | as it is, value / 257, or 0 and 255; any number of channels        |

Everything else is a DecodeError that names the file and the reason.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from vitrail.errors import DecodeError, ShapeError
from vitrail.images import jpeg, tiff
from vitrail.images import npy as arrays
from vitrail.images.npy import UPRIGHT, check_size

LIMIT = 89_000_000
"""Pixels of the largest image that is decoded."""

TOLERANCE = 2.0
"""Levels of 255, the mean over a photograph, by which a region of a reduced JPEG may differ from a full one."""

Background = tuple[int, int, int]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels of the upright image."""
WHITE = (255, 255, 255)

FORMATS: dict[str, tuple[bytes, Callable[..., Image.Image]]] = {
    "JPEG": (b"\xff\xd8\xff", JpegImagePlugin.JpegImageFile),
    "PNG": (b"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile),
    "WebP": (b"RIFF....WEBP", WebPImagePlugin.WebPImageFile),
    "GIF": (b"GIF8", GifImagePlugin.GifImageFile),
    "BMP": (b"BM", BmpImagePlugin.BmpImageFile),
    "TIFF": (b"II*\0", TiffImagePlugin.TiffImageFile),
    "TIFF, big-endian": (b"MM\0*", TiffImagePlugin.TiffImageFile),
    "PBM": (b"P4", PpmImagePlugin.PpmImageFile),
    "PGM": (b"P5", PpmImagePlugin.PpmImageFile),
    "PPM": (b"P6", PpmImagePlugin.PpmImageFile),
}
"""Format -> the first bytes of its files (a dot stands for any) and its reader. File names do not count."""

_ON_ITS_SIDE = (5, 6, 7, 8)


def sniff(head: bytes) -> str | None:
    """The format that a file's first 16 bytes show, or None."""
    for name, (magic, _) in FORMATS.items():
        if len(head) >= len(magic) and all(want in (46, byte) for want, byte in zip(magic, head, strict=False)):
            return name
    return "npy" if head.startswith(arrays.NPY) else None


def decode(
    content: bytes | np.ndarray, *, key: str = "", background: Background = WHITE, limit: int = LIMIT
) -> UInt8[np.ndarray, "H W C"]:
    """The upright picture, C = 1 (grey) or 3 (RGB), or as many as an .npy file has; an array is one already.

    Raises DecodeError.
    """
    if isinstance(content, np.ndarray):
        return content
    with _decoding(key):
        return _whole(content, background, limit)


def _whole(content: bytes, background: Background, limit: int) -> UInt8[np.ndarray, "H W C"]:
    array = arrays.load(content, limit)
    if array is not None:
        return array
    image = _open(content, limit)
    image.load()
    return _pixels(_turn(image, _orientation(image)), background)


def check_header(content: bytes, *, key: str = "", limit: int = LIMIT) -> None:
    """Raises the DecodeError that `decode` would, as far as the header tells; a file's beginning may be enough to pass."""
    with _decoding(key):
        if arrays.check(content, limit) is None:
            _open(content, limit)


def decode_region(
    content: bytes | np.ndarray,
    region: Callable[[int, int], Box],
    at_least: tuple[int, int],
    *,
    key: str = "",
    background: Background = WHITE,
    limit: int = LIMIT,
) -> UInt8[np.ndarray, "h w C"]:
    """A box of the upright picture, for a training crop: `region` is asked for it once height and width are known.

    A JPEG is decoded at scale 1, 1/2, 1/4 or 1/8: the smallest at which the box has `at_least` that height and width. The
    box's edges then go to the nearest multiple of 2, 4 or 8 pixels. Other formats are decoded at full size. TOLERANCE
    bounds what the reduced scale does to pixels.
    """
    if isinstance(content, np.ndarray):
        return _cut(content, region)
    with _decoding(key):
        if sniff(content[:16]) != "JPEG":
            return _cut(_whole(content, background, limit), region)
        image: Any = _open(content, limit)
        turn = _orientation(image)
        height, width = (image.width, image.height) if turn in _ON_ITS_SIDE else (image.height, image.width)
        box = region(height, width)
        reduced = _reduction(box, at_least)
        if reduced > 1:
            image.draft(None, (image.width // reduced, image.height // reduced))
        image.decodermaxblock = len(content)  # in one go: else libjpeg stops and starts again at every 64 KiB
        image.load()
        return _pixels(_turn(image, turn).crop(_reduced(box, reduced)), background)


def _cut(image: UInt8[np.ndarray, "H W C"], region: Callable[[int, int], Box]) -> UInt8[np.ndarray, "h w C"]:
    left, top, right, bottom = region(*image.shape[:2])
    return image[top:bottom, left:right]


def as_channels(image: UInt8[np.ndarray, "H W C"], channels: int) -> UInt8[np.ndarray, "H W c"]:
    """Grey to RGB by repetition, RGB to grey by Rec. 601 luma; any other change of channels raises ShapeError."""
    found = image.shape[2]
    if found == channels:
        return image
    if (found, channels) == (1, 3):
        return np.repeat(image, 3, axis=2)
    if (found, channels) == (3, 1):
        return np.array(Image.fromarray(image).convert("L"))[..., None]
    raise ShapeError(
        f"an image of {found} channels where {channels} are wanted",
        allowed="grey for RGB, RGB for grey, or the same number",
        next_step=f"give images of {channels} channels, or take a model that was trained on {found}",
    )


# --- from the header to an open image ---------------------------------------------------------------------------------


@contextlib.contextmanager
def naming(key: str) -> Iterator[None]:
    """Inside, an image that cannot be read or has the wrong channels raises DecodeError that names it."""
    try:
        yield
    except DecodeError as error:
        raise error.named(key) from None
    except ShapeError as error:
        raise DecodeError(error.found, key=key, allowed=error.allowed, next_step=error.next_step) from None


@contextlib.contextmanager
def _decoding(key: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a DecodeError; damaged bytes make decoders raise anything."""
    try:
        with naming(key or "an image"):
            yield
    except (DecodeError, MemoryError):  # too little memory is not the picture's fault
        raise
    except Exception as error:
        reason = str(error).strip() or type(error).__name__
        raise DecodeError(f"the picture is damaged ({reason})", key=key or "an image") from error


def _open(content: bytes, limit: int) -> Image.Image:
    """The header read, the size checked, no pixel touched; the first bytes choose, past Pillow's registry."""
    name = sniff(content[:16])
    if name is None or name == "npy":
        raise DecodeError(_what_it_is(content), allowed="JPEG, PNG, WebP, GIF, BMP, TIFF, binary PNM, npy")
    if name == "JPEG":
        jpeg.check_segments(content)  # before Pillow joins them
    image = FORMATS[name][1](io.BytesIO(content))
    check_size(image.width, image.height, limit)
    if name == "JPEG":
        jpeg.check_scans(content, image.width * image.height)
    return image


def _what_it_is(content: bytes) -> str:
    head = content[:256].lstrip().lower()
    if not content:
        return "an empty file"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page, not a picture"
    if head.startswith((b"<svg", b"<?xml")):
        return "XML or SVG, not pixels"
    return f"not a picture of a known format (it begins {content[:8].hex(' ')})"


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, 1 … 8; 1 where there is none or its block cannot be read, as every viewer has it."""
    try:
        return int(image.getexif().get(0x0112, 1))
    except Exception:  # a damaged EXIF block leaves the pixels as they are
        return 1


def _turn(image: Image.Image, orientation: int) -> Image.Image:
    if orientation not in UPRIGHT:
        return image
    turned = image.transpose(UPRIGHT[orientation])
    turned.info.update(image.info)
    return turned


def _reduction(box: Box, at_least: tuple[int, int]) -> int:
    """By how much a JPEG can be decoded smaller: 1, 2, 4 or 8."""
    scale = min((box[3] - box[1]) / at_least[0], (box[2] - box[0]) / at_least[1])
    return 2 ** min(3, int(math.log2(scale))) if scale >= 2 else 1


def _reduced(box: Box, by: int) -> Box:
    left, top, right, bottom = (round(edge / by) for edge in box)
    return left, top, right, bottom


# --- the table --------------------------------------------------------------------------------------------------------


def _pixels(image: Image.Image, background: Background) -> UInt8[np.ndarray, "H W C"]:
    """An upright image of any mode as grey or RGB."""
    mode = image.mode
    if mode.startswith("I"):
        return _from_16_bits(image, background)
    if mode == "F":
        return tiff.from_floats(np.asarray(image))[..., None]
    if mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info:
        return _on_background(image, background)
    if mode in ("1", "L"):
        return _array(image.convert("L"))
    return _array(image if mode == "RGB" else image.convert("RGB"))


def _from_16_bits(image: Image.Image, background: Background) -> UInt8[np.ndarray, "H W 1"]:
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise DecodeError(f"grey values of {values.min()} to {values.max()}", allowed="0 to 65,535")
    grey = np.rint(values / 257).astype(np.uint8)[..., None]
    key = image.info.get("transparency")
    return np.where(values[..., None] == key, np.uint8(background[0]), grey) if isinstance(key, int) else grey


def _on_background(image: Image.Image, background: Background) -> UInt8[np.ndarray, "H W C"]:
    grey = image.mode in ("LA", "La", "L", "1") and len(set(background)) == 1
    source = image.convert("RGBA")
    canvas = Image.new("RGBA", source.size, (*background, 255))
    flat = _array(Image.alpha_composite(canvas, source).convert("RGB"))
    return np.ascontiguousarray(flat[..., :1]) if grey else flat


def _array(image: Image.Image) -> UInt8[np.ndarray, "H W C"]:
    array = np.array(image)  # a copy: Pillow's own is read-only
    return array[..., None] if array.ndim == 2 else array
