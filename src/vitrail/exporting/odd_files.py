"""Image files of the kinds that readers get wrong: turned by EXIF, CMYK, grey, 16-bit, floating-point, transparent, oblong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

_ORIENTATION = 0x0112


def write_odd_files(folder: Path, images: UInt8[Tensor, "N C H W"] | None = None) -> list[Path]:
    """Writes one file of each kind into a new folder, and up to four of the given images; gives their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in KINDS.items():
        draw(folder / name)
    for number, image in enumerate(images[:4] if images is not None else ()):
        if image.shape[0] in (1, 3):
            pixels = image.permute(1, 2, 0).numpy()
            Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(folder / f"real-{number}.png")
    return sorted(folder.iterdir())


def _picture(height: int, width: int, channels: int = 3) -> UInt8[np.ndarray, "H W C"]:
    """Waves of several lengths: a picture with edges, corners and no symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [127.5 * (1 + np.sin(x / (3 + 4 * k) + y * y / (90 + 40 * k))) for k in range(channels)]
    return np.stack(waves, axis=2).astype(np.uint8)


def _turned(path: Path) -> None:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    Image.fromarray(_picture(90, 61)).save(path, exif=exif)


def _grey_16_bits(path: Path) -> None:
    Image.fromarray(_picture(47, 70)[..., 0].astype(np.uint16) * 257 + 100).save(path)


def _grey_16_bits_with_a_key(path: Path) -> None:
    pixels = _picture(47, 70)[..., 0].astype(np.uint16) * 200
    pixels[:20] = 300
    Image.fromarray(pixels).save(path, transparency=300)


KINDS: dict[str, Callable[[Path], None]] = {
    "small.png": lambda path: Image.fromarray(_picture(13, 17)).save(path),
    "oblong.png": lambda path: Image.fromarray(_picture(60, 210)).save(path),
    "large.jpg": lambda path: Image.fromarray(_picture(501, 380)).save(path),
    "turned.jpg": _turned,
    "cmyk.jpg": lambda path: Image.fromarray(_picture(64, 80, 4), mode="CMYK").save(path),
    "grey.png": lambda path: Image.fromarray(_picture(50, 40)[..., 0]).save(path),
    "grey-16.png": _grey_16_bits,
    "grey-16-key.png": _grey_16_bits_with_a_key,
    "grey-float.tif": lambda path: Image.fromarray(_picture(41, 62)[..., 0].astype(np.float32) / 255).save(path),
    "transparent.png": lambda path: Image.fromarray(_picture(70, 55, 4), mode="RGBA").save(path),
    "palette.gif": lambda path: Image.fromarray(_picture(33, 44)).convert("P").save(path),
}
