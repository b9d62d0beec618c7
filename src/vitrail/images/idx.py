"""IDX, the files of the MNIST family, packed with gzip or not: a header of sizes, then bytes."""

import contextlib
import gzip
import math
import re
import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, cast

import numpy as np
from jaxtyping import UInt8

from vitrail.errors import DataError
from vitrail.images.heldout import own_split, split
from vitrail.images.samples import Source, Splits, from_arrays
from vitrail.storage import open_regular

_NAME = re.compile(r"(?P<prefix>.*?)(?P<part>train|t10k|test)-(?P<what>images|labels)[-.]idx[0-9]-ubyte(\.gz)?")
_DEFLATE = 1032  # gzip packs at most so many bytes into one
_LARGEST = 8 << 30  # bytes unpacked; the header is checked against it before anything is allocated


def find_idx(root: Path) -> dict[tuple[str, str], Path]:
    """(part, what) -> file: `train` or `test`, `images` or `labels`. The unpacked file wins over the packed."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(root.iterdir(), key=lambda path: path.name, reverse=True):  # x.gz before x
        if match := _NAME.fullmatch(path.name):
            found[("train" if match["part"] == "train" else "test"), match["what"]] = path
    return found


def open_idx(
    root: Path, *, holdout: float, seed: int, name: str | None = None, classes: tuple[str, ...] | None = None
) -> Splits:
    """A folder with the files of the MNIST family; without t10k files a part of the training images is held out."""
    files, name = find_idx(root), name or root.name
    train = _read_part(files, "train", root, name, classes)
    if ("test", "images") not in files:
        return split(train, holdout, seed)
    test = _read_part(files, "test", root, name, train.classes)
    return own_split({"train": train, "test": test}, "set's")


def _read_part(
    files: dict[tuple[str, str], Path], part: str, root: Path, name: str, classes: tuple[str, ...] | None
) -> Source:
    for what in ("images", "labels"):
        if (part, what) not in files:
            raise DataError(f"{root} has no {part}-{what} file", allowed="train-images-idx3-ubyte(.gz) and the like")
    shapes = [read_shape(files[part, what]) for what in ("images", "labels")]
    if len(shapes[0]) not in (3, 4) or len(shapes[1]) != 1 or shapes[0][0] != shapes[1][0]:  # before all is unpacked
        raise DataError(
            f"{files[part, 'images']} has the shape {shapes[0]} and {files[part, 'labels'].name} {shapes[1]}",
            allowed="N×H×W (or N×H×W×C) images and N labels",
        )
    images, labels = read_idx(files[part, "images"]), read_idx(files[part, "labels"])
    classes = classes or tuple(str(index) for index in range(int(labels.max(initial=0)) + 1))
    if labels.max(initial=0) >= len(classes):
        raise DataError(f"{files[part, 'labels']} has the label {labels.max()}", allowed=f"0 … {len(classes) - 1}")
    images = images if images.ndim == 4 else images[..., None]
    return from_arrays(f"{name}/{part}", images, labels.astype(np.int64), classes)


@contextlib.contextmanager
def _open(path: Path) -> Generator[IO[bytes]]:
    """The file unpacked. Raises DataError that names a file that cannot be read."""
    try:
        with open_regular(path) as file:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=file)) if path.suffix == ".gz" else file
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error})", next_step="fetch it again") from None


def read_shape(path: Path) -> tuple[int, ...]:
    """The shape that an IDX file of bytes declares. Raises DataError for one that its bytes cannot hold."""
    with _open(path) as file:
        head = file.read(4)
        if len(head) < 4 or head[:2] != b"\0\0" or head[2] != 8 or not 1 <= head[3] <= 4:
            raise DataError(f"{path} is no IDX file of bytes (it begins {head.hex(' ')})", allowed="00 00 08 01 … 04")
        sizes = file.read(4 * head[3])
    shape = struct.unpack(f">{head[3]}I", sizes) if len(sizes) == 4 * head[3] else (0,)
    most = min(_LARGEST, path.stat().st_size * (_DEFLATE if path.suffix == ".gz" else 1))
    if not 0 < math.prod(shape) <= most:
        raise DataError(f"{path} declares the shape {shape}", allowed=f"1 to {most:,} bytes")
    return shape


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array in one IDX file of bytes. Raises DataError that names the file and what is wrong with it."""
    shape = read_shape(path)
    size = math.prod(shape)
    with _open(path) as file:
        file.read(4 + 4 * len(shape))
        data = file.read(size + 1)
    if len(data) != size:
        kind = "fewer" if len(data) < size else "more"
        raise DataError(
            f"{path} has {kind} bytes than its {'×'.join(map(str, shape))} values", next_step="fetch it again"
        )
    return np.frombuffer(data, np.uint8).reshape(shape)
