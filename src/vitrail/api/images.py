"""Images however they come: paths, folders, a named set, arrays, tensors or PIL images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image
from torch import Tensor

from vitrail.errors import ShapeError
from vitrail.images.sources import Source, open_all

Images = Any
"""Paths, folders or a named set; uint8 arrays H × W × C or tensors C × H × W; PIL images; one of them or a list; a Source."""


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
    """The images as sources without labels; of data with a split, one for each part. Raises DataError, ShapeError."""
    if isinstance(images, Source):
        return [images]
    items = _items(images)
    if items and all(isinstance(item, str | Path) for item in items):
        return list(open_all(items, follow_links=follow_links).values())
    arrays = [_array(item) for item in items]
    keys = [f"image {number}" for number in range(len(arrays))]
    labels = np.full(len(arrays), -1, np.int64)
    return [Source("images", (), labels, keys, ImageList(arrays), np.arange(len(arrays)))]


def _items(images: Images) -> Sequence[Any]:
    if isinstance(images, str | Path | Image.Image):
        return [images]
    if isinstance(images, np.ndarray | Tensor):
        return list(images) if images.ndim == 4 else [images]
    return list(images)


def _array(image: Any) -> UInt8[np.ndarray, "H W C"]:
    """One image as uint8 H × W × C."""
    if isinstance(image, Tensor):
        image = image.detach().cpu().numpy()
        image = np.moveaxis(image, 0, -1) if image.ndim == 3 else image
    if isinstance(image, Image.Image):
        image = image.convert("RGB")
    array = np.asarray(image)
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.dtype != np.uint8:
        raise ShapeError(
            f"an image of {array.dtype} and shape {tuple(array.shape)}",
            allowed="uint8: an array H × W × C, a tensor C × H × W, a PIL image, or a path",
        )
    return np.ascontiguousarray(array)
