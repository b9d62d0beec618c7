"""The reader that lies next to an exported ONNX file: a short program of NumPy, Pillow and ONNX Runtime, without Vitrail.

It is written for one model: only the lines of its own preprocessing are there. Its resizing gives torch's 8-bit numbers, bit for
bit: the weights of the antialiased filter as whole numbers, of so many bits that the largest still fits into 16
(`compute_index_ranges_int16_weights` in torch's UpSampleKernel.cpp).
"""

import runpy
from pathlib import Path
from typing import Any

from vitrail.errors import DoesNotApply
from vitrail.images.preprocess import Preprocess
from vitrail.weights.record import Record

_BEGINS = '"""Labels images with '
_READER = '''\
@BEGINS@@NAME@.onnx. It needs numpy, pillow and onnxruntime: python @NAME@.py photo.jpg …"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(str(pathlib.Path(__file__).with_name(@FILE@)))
CLASSES = json.loads(session.get_modelmeta().custom_metadata_map["vitrail.export"])["record"]["classes"]


def weights(have, want):  # of every pixel for every new one: torch's antialiased @FILTER@, in whole numbers over 2**bits
    x = np.abs(np.arange(have) + 0.5 - (np.arange(want)[:, None] + 0.5) * have / want) / max(have / want, 1)
    w = @WEIGHT@
    w /= w.sum(1, keepdims=True)
    bits = next(p for p in range(22) if int(0.5 + w.max() * 2 ** (p + 1)) >= 2**15)
    return np.trunc(w * 2**bits + np.copysign(0.5, w)), bits


def resize(image, size):
    for axis in (1, 0):
        w, bits = weights(image.shape[axis], size[axis])
        sums = np.tensordot(w, image, (1, axis)) + 2 ** (bits - 1)
        image = np.moveaxis(np.clip(np.floor(sums / 2**bits), 0, 255), 0, axis)
    return image


def read(path):  # upright, transparent pixels on the background, resized: 1 × C × H × W, 8-bit
    with Image.open(path) as file:
        image = ImageOps.exif_transpose(file)
        image.load()
    if image.mode[0] in "IF":  # grey: 16 bits, of which one may be transparent; or floating point, to 1 or to 255
        v, most = (np.asarray(image), 255) if image.mode == "F" else (np.asarray(image).astype(np.int64), 65535)
        if not 0 <= v.min() <= v.max() <= most:
            raise ValueError(f"{path}: grey values of {v.min()} to {v.max()}; allowed: 0 to {most}")
        grey = np.rint(v / 257 if most == 65535 else v * 255 if v.max() <= 1 else v)
        grey = np.where(v == image.info.get("transparency", -1), @BEHIND@, grey)
        image = Image.fromarray(grey.astype(np.uint8))
    elif image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, @BACKGROUND@), image.convert("RGBA")).convert("RGB")
    image = np.asarray(image.convert("RGB"@GREY@), np.float64).reshape(image.height, image.width, @CHANNELS@)
@FIT@
    return image.transpose(2, 0, 1)[None].astype(np.uint8)


def answer(path):  # a probability for each class
    logits = session.run(None, {"images": read(path)})[0][0].astype(np.float64)
    @PROBABILITIES@


if __name__ == "__main__":
    for path in sys.argv[1:]:
        p = answer(path)
        best = [(CLASSES[k] if CLASSES else f"class {k}", p[k]) for k in np.argsort(-p)@BEST@]
        print(path, *(f"{name} {value:@FORMAT@}" for name, value in best), sep="  ")
'''

_WEIGHTS = {
    "bilinear": "np.maximum(1 - x, 0)",
    "bicubic": ("np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((2.5 - 0.5 * x) * x - 4) * x + 2, 0))"),
}

_FIT = {
    "squash": "    image = resize(image, @SIZE@)",
    "crop": """\
    (h, w), (height, width) = image.shape[:2], @SIZE@
    if (h, w) != (height, width):  # the short side to size / @CROP@, then the centre
        if height / h >= width / w:
            whole = int(height / @CROP@ + 1e-6), max(width, int(int(height / @CROP@ + 1e-6) * w / h))
        else:
            whole = max(height, int(int(width / @CROP@ + 1e-6) * h / w)), int(width / @CROP@ + 1e-6)
        top, left = round((whole[0] - height) / 2), round((whole[1] - width) / 2)
        image = resize(image, whole)[top : top + height, left : left + width]""",
    "pad": """\
    (h, w), (height, width) = image.shape[:2], @SIZE@
    if (h, w) != (height, width):  # as large as fits, in the middle of the background
        fit = min(height / h, width / w)
        inner = max(1, min(height, round(h * fit))), max(1, min(width, round(w * fit)))
        top, left, canvas = (height - inner[0]) // 2, (width - inner[1]) // 2, np.full((height, width, @CHANNELS@), @FILL@, float)
        canvas[top : top + inner[0], left : left + inner[1]] = resize(image, inner)
        image = canvas""",
    "native": """\
    h, w = image.shape[:2]  # to the shape whose aspect is nearest
    image = resize(image, min(@SHAPES@, key=lambda s: abs(np.log(s[1] / s[0] * h / w))))""",
}


def write_reader(record: Record, file: str) -> str:
    """The program for an ONNX file of this name. DoesNotApply for preprocessing that Pillow alone cannot do."""
    preprocess = record.preprocess
    if preprocess.channels not in (1, 3) or preprocess.interpolation == "nearest":
        raise DoesNotApply(
            f"images of {preprocess.channels} channels resized by {preprocess.interpolation!r}",
            allowed="1 or 3 channels, bilinear or bicubic",
        )
    text = _READER.replace("@FIT@", _FIT[preprocess.resize])
    for name, value in _values(record, preprocess, file).items():
        text = text.replace(f"@{name}@", value)
    return text


def _values(record: Record, preprocess: Preprocess, file: str) -> dict[str, str]:
    several = record.threshold is not None
    gives = (
        "return 1 / (1 + np.exp(-logits))" if several else "p = np.exp(logits - logits.max())\n    return p / p.sum()"
    )
    return {
        "BEGINS": _BEGINS,
        "NAME": "".join(one if one.isprintable() and one not in '"\\' else "_" for one in Path(file).stem),
        "FILE": repr(file),
        "FILTER": preprocess.interpolation,
        "WEIGHT": _WEIGHTS[preprocess.interpolation],
        "BACKGROUND": repr((*preprocess.background, 255)),
        "BEHIND": str(preprocess.background[0]),
        "GREY": ').convert("L"' if preprocess.channels == 1 else "",
        "CHANNELS": str(preprocess.channels),
        "SIZE": repr(tuple(preprocess.size)),
        "CROP": repr(preprocess.crop_fraction),
        "FILL": repr(preprocess.fill),
        "SHAPES": repr(preprocess.shapes),
        "PROBABILITIES": "return logits  # no classes: a number" if record.numeric else gives,
        "FORMAT": ".4g" if record.numeric else ".1%",
        "BEST": f" if p[k] >= {record.threshold!r}" if several else "[:5]",
    }


def is_reader(path: Path) -> bool:
    """Whether an export wrote this file."""
    return path.is_file() and path.read_bytes().startswith(_BEGINS.encode())


def load_reader(path: Path) -> dict[str, Any]:
    """The functions of a reader on disk: `answer(path)` and `read(path)`."""
    return runpy.run_path(str(path))
