"""Images however they come: paths, folders, a named set, arrays, tensors or PIL images."""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image, ImageOps
from torch import Tensor

from vitrail.errors import ConfigError, DecodeError, ShapeError
from vitrail.images.decode import decode
from vitrail.images.samples import Splits
from vitrail.images.sources import Source, open_all

Images = Any
"""Paths, folders or a named set; uint8 arrays H × W × C or tensors C × H × W; PIL images; one or a list; a Source, or Splits."""


@dataclass(frozen=True, eq=False)
class ImageList:
    """Images in memory that may differ in height and width."""

    images: list[UInt8[np.ndarray, "H W C"]]

    def read(self, index: int) -> np.ndarray:
        return self.images[index]

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return np.array([image.nbytes for image in self.images], np.int64)


def open_any(images: Images, *, follow_links: bool = False) -> list[Source]:
    """The images as sources without labels; of data with a split, one for each part.

    Raises DataError, ShapeError; ConfigError for what cannot be images, DecodeError for a PIL image that is damaged.
    """
    if isinstance(images, Source):
        return [images]
    if isinstance(images, Splits):
        return list(images.parts.values())
    items = _items(images)
    if items and all(isinstance(item, str | Path) for item in items):
        return list(open_all(items, follow_links=follow_links).values())
    keys = [f"image {number}" for number in range(len(items))]
    arrays = [_array(item, key) for item, key in zip(items, keys, strict=True)]
    labels = np.full(len(arrays), -1, np.int64)
    return [Source("images", (), labels, keys, ImageList(arrays), np.arange(len(arrays)))]


def _items(images: Images) -> Sequence[Any]:
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    if not isinstance(images, Iterable):
        allowed = "paths, folders, a named set, uint8 arrays, tensors or PIL images; one of them or a list"
        raise ConfigError(f"images of type {type(images).__name__}", allowed=allowed)
    return list(images)


def _array(image: Any, key: str) -> UInt8[np.ndarray, "H W C"]:
    """One image as uint8 H × W × C."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    if isinstance(image, Image.Image):
        return _of_pillow(image, key)
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype != np.uint8 or not array.size:
        raise ShapeError(
            f"an image of {array.dtype} and shape {tuple(array.shape)}",
            allowed="uint8: an array H × W × C, a tensor C × H × W, a PIL image, or a path",
        )
    return np.ascontiguousarray(array)


def _of_pillow(image: Image.Image, key: str) -> UInt8[np.ndarray, "H W C"]:
    """As its file would be read: upright, transparent pixels on white, 16 bits as 8. Raises DecodeError."""
    file = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        clear = upright.has_transparency_data and not upright.mode.startswith("I")
        if clear or upright.mode in ("P", "HSV", "RGBX"):
            upright = upright.convert("RGBA" if clear else "RGB")
        upright.save(file, "TIFF")
    except OSError as error:
        raise DecodeError(f"the picture is damaged ({error})", key=key) from None
    return decode(file.getvalue(), key=key)
