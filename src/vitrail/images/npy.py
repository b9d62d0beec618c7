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


def check(content: bytes, limit: int) -> Any:
    """The header of a file that this module reads, None for others. DecodeError for one that declares too much.

    More than `limit` pixels, or four times as many values in all, are too much.
    """
    header: Any = None
    if content.startswith(NPY):
        header, dtype = _read_header(io.BytesIO(content))
        if dtype.newbyteorder("=") not in (np.uint8, np.uint16, np.bool_) or len(header) not in (2, 3):
            raise DecodeError(
                f"an array of {dtype} and shape {header}", allowed="uint8, uint16 or bool of H W or H W C"
            )
        height, width, channels = *header[:2], math.prod(header[2:])
    elif content[:4] in (b"II*\0", b"MM\0*") and (header := tiff.channels_tags(content)) is not None:
        height, width, channels = header[tiff.HEIGHT], header[tiff.WIDTH], header[tiff.SAMPLES]
    else:
        return None
    check_size(width, height, limit)
    if not 0 < width * height * channels <= 4 * limit:
        raise DecodeError(
            f"{width:,}×{height:,} pixels of {channels:,} channels", allowed=f"1 to {4 * limit:,} values in all"
        )
    return header


def load(content: bytes, limit: int) -> UInt8[np.ndarray, "H W C"] | None:
    """Pixels of formats that Pillow does not read: .npy, and TIFFs of any number of channels. None for others."""
    header = check(content, limit)
    if header is None or content.startswith(NPY):
        return None if header is None else _load_npy(content)
    array, turn = tiff.read_channels(content, header), header.get(0x0112, 1)
    if turn not in UPRIGHT:
        return array
    return np.stack([np.asarray(Image.fromarray(c).transpose(UPRIGHT[turn])) for c in np.moveaxis(array, 2, 0)], 2)


def _load_npy(content: bytes) -> UInt8[np.ndarray, "H W C"]:
    """An array as numpy saves it; an array of objects (a pickle) is never read."""
    array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    if array.dtype.itemsize == 2:
        array = np.rint(array / 257).astype(np.uint8)
    array = array.astype(np.uint8) * np.uint8(255) if array.dtype == np.bool_ else array
    return array if array.ndim == 3 else array[..., None]


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
