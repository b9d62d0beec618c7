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


def scene(seed: int) -> np.ndarray:
    """A picture that has nothing in common with that of another seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((120, 96), Image.Resampling.BICUBIC))


def put(path: Path, image: Image.Image, kind: str = "PNG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(image, kind))


def dirty_folder(root: Path) -> Path:
    """Twelve sound pictures in train and in test, and one of every fault."""
    for part, first in (("train", 0), ("test", 50)):
        for k in range(12):
            put(root / part / f"class{k % 2}" / f"{k}.png", Image.fromarray(scene(first + k)))
    (root / "test/class0/leak.png").write_bytes((root / "train/class0/4.png").read_bytes())
    (root / "train/class1/conflict.png").write_bytes((root / "train/class0/6.png").read_bytes())
    (root / "train/class0/copy.png").write_bytes((root / "train/class0/8.png").read_bytes())
    put(root / "test/class1/near.jpg", Image.fromarray(scene(3)).resize((100, 80)), "JPEG")
    (root / "train/class1/cut.png").write_bytes((root / "train/class1/1.png").read_bytes()[:500])
    put(root / "train/class1/named.jpg", Image.fromarray(scene(40)), "PNG")
    return root
