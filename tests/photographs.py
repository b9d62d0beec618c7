"""Folders of small JPEGs cut out of real photographs (scikit-learn ships two), for tests and benchmarks."""

import io
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images


@cache
def photographs() -> list[Image.Image]:
    return [Image.fromarray(image) for image in load_sample_images().images]


def photograph(index: int, size: tuple[int, int]) -> Image.Image:
    """The index-th cut-out at `size` (width, height): always the same one."""
    random = np.random.default_rng(index)
    image = photographs()[index % 2]
    share = random.uniform(0.6, 1)
    w, h = image.width * share, image.width * share * size[1] / size[0]
    if h > image.height:
        w, h = w * image.height / h, image.height
    x, y = random.uniform(0, image.width - w), random.uniform(0, image.height - h)
    return image.resize(size, Image.Resampling.BICUBIC, box=(x, y, x + w, y + h))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg_folder(root: Path, count: int, *, size: tuple[int, int] = (64, 48), classes: int = 2) -> Path:
    """`count` JPEGs in folders class0, class1 …"""
    for index in range(count):
        folder = root / f"class{index % classes}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index:04d}.jpg").write_bytes(encoded(photograph(index, size), quality=90))
    return root
