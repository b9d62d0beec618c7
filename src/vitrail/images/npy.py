"""Images that are numbers in a file and not a picture Pillow reads: .npy, and TIFFs of any number of channels."""

import io
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from vitrail.errors import DecodeError
from vitrail.images import tiff
from vitrail.storage import open_regular

NPY = b"\x93NUMPY"
MOST_BLOWN_UP, SMALL = 8, 64 << 20
"""Numbers hardly compress. An archive that claims many times its size was made to fill the memory."""
ARCHIVE_ERRORS = (
    OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, SyntaxError, tokenize.TokenError, zlib.error,
    zipfile.BadZipFile,
)  # fmt: skip
"""Whatever numpy and zipfile raise for damaged archives."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what undoes it."""


def check_size(width: int, height: int, limit: int) -> None:
    """Raises DecodeError for more than `limit` pixels, and for none."""
    if width * height > limit:
        raise DecodeError(f"{width:,}×{height:,} pixels declared", allowed=f"{limit:,} in all")
    if not width * height:
        raise DecodeError(f"{width}×{height} pixels declared")


def check_values(width: int, height: int, channels: int, limit: int) -> None:
    """Raises DecodeError for no channels, or more than four times `limit` values in all."""
    if not 0 < width * height * channels <= 4 * limit:
        raise DecodeError(
            f"{width:,}×{height:,} pixels of {channels:,} channels", allowed=f"1 to {4 * limit:,} values in all"
        )


def check(content: bytes, limit: int) -> bool:
    """Whether this module reads it; raises DecodeError for a header that `load` would refuse."""
    if content.startswith(NPY):
        _npy_header(io.BytesIO(content), limit)
        return True
    tags = _channels_tags(content)
    if tags is not None:
        _check_tags(tags, limit)
    return tags is not None


def load(content: bytes, limit: int) -> UInt8[np.ndarray, "H W C"] | None:
    """Pixels of formats that Pillow does not read: .npy, and TIFFs of any number of channels. None for others."""
    if content.startswith(NPY):
        return _load_npy(content, limit)
    tags = _channels_tags(content)
    if tags is None:
        return None
    _check_tags(tags, limit)
    array, turn = tiff.read_channels(content, tags), tags.get(0x0112, 1)
    if turn not in UPRIGHT:
        return array
    return np.stack([np.asarray(Image.fromarray(c).transpose(UPRIGHT[turn])) for c in np.moveaxis(array, 2, 0)], 2)


def _check_tags(tags: Any, limit: int) -> None:
    width, height, samples = tags[tiff.WIDTH], tags[tiff.HEIGHT], tags[tiff.SAMPLES]
    check_size(width, height, limit)
    check_values(width, height, samples, limit)


def _channels_tags(content: bytes) -> Any:
    return tiff.channels_tags(content) if content[:4] in (b"II*\0", b"MM\0*") else None


def _load_npy(content: bytes, limit: int) -> UInt8[np.ndarray, "H W C"]:
    """An array as numpy saves it; its header is checked first, and an array of objects (a pickle) is never read."""
    _npy_header(io.BytesIO(content), limit)
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.dtype == np.uint16:
        array = np.rint(array / 257).astype(np.uint8)
    array = array.astype(np.uint8) * np.uint8(255) if array.dtype == np.bool_ else array
    return array if array.ndim == 3 else array[..., None]


def _npy_header(file: io.BytesIO, limit: int) -> None:
    shape, dtype = _read_header(file)
    if dtype not in (np.uint8, np.uint16, np.bool_) or len(shape) not in (2, 3):
        raise DecodeError(f"an array of {dtype} and shape {shape}", allowed="uint8, uint16 or bool of H W or H W C")
    check_size(shape[1], shape[0], limit)
    check_values(shape[1], shape[0], math.prod(shape[2:]), limit)


def _read_header(file: Any) -> tuple[tuple[int, ...], Any]:
    version = np.lib.format.read_magic(file)
    read: Any = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return shape, dtype


def read_archive(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """The arrays of an .npz by name, one at a time. Objects, which need unpickling, are refused.

    An array that claims more than its entry holds is refused before numpy asks for the memory. An archive that claims
    many times its size is refused too. ValueError says why.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            with zipfile.ZipFile(file) as archive:
                claimed = sum(entry.file_size for entry in archive.infolist())
                _check_arrays(archive)
            if claimed > MOST_BLOWN_UP * size + SMALL:
                raise ValueError(f"a file of {size:,} bytes claims to hold {claimed:,}")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                yield from archive.items()
    except ARCHIVE_ERRORS as error:
        raise ValueError(str(error)) from None


def _check_arrays(archive: zipfile.ZipFile) -> None:
    for entry in archive.infolist():
        with archive.open(entry) as file:
            shape, dtype = _read_header(file)
        if math.prod(shape) * dtype.itemsize > entry.file_size:
            raise ValueError(f"{entry.filename} claims the shape {shape} in {entry.file_size:,} bytes")
