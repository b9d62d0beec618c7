"""Which images are the same, whatever they are called: a 16-byte key of the contents of each.

A file's key is the BLAKE2b hash of its bytes, so a moved, renamed, copied or packed image keeps it. An image that lies in
memory (IDX, .npz) is hashed by its pixels. Packing turns such an image into a small PNG, so a small PNG has two keys:
that of its bytes and that of its pixels.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from vitrail import machine
from vitrail.errors import DataError, DecodeError
from vitrail.images.decode import decode
from vitrail.images.samples import Source
from vitrail.storage import read_regular, write_whole

Keys = np.ndarray
"""Sorted keys without repeats, 16 bytes each (dtype S16)."""
NO_KEYS: Keys = np.empty(0, "S16")
SMALL_PNG = 32 << 10
"""Bytes of a PNG up to which its pixels count too."""
LARGEST = 16 << 30
"""Bytes of the largest file of keys: a thousand million images."""
_PNG = b"\x89PNG"
_CHUNK = 256


def content_key(content: bytes | np.ndarray) -> bytes:
    """The key of a file's bytes, or of an image's pixels."""
    if isinstance(content, bytes):
        return _hash(content)
    return _hash(np.ascontiguousarray(content).tobytes() + repr(content.shape).encode(), b"pixels")


def keys_of(source: Source, tick: Callable[[int], object] = lambda done: None) -> np.ndarray:
    """N × 2 keys: of each image its own, and that of its pixels where it is a small PNG (else the first again).

    Every image is read once, by threads; hashing takes about a second for each gigabyte. `tick` hears how many are done.
    """
    chunks = (range(start, min(start + _CHUNK, len(source))) for start in range(0, len(source), _CHUNK))
    rows: list[tuple[bytes, bytes]] = []
    with ThreadPoolExecutor(machine.cores()) as pool:
        for found in pool.map(lambda chunk: [_keys_of_one(source, index) for index in chunk], chunks):
            rows += found
            tick(len(rows))
    return np.array(rows, "S16").reshape(-1, 2)


def unique_keys(rows: np.ndarray) -> Keys:
    """All keys of `keys_of`, sorted."""
    return np.unique(rows.ravel()) if rows.size else NO_KEYS


def contained(rows: np.ndarray, keys: Keys) -> Bool[np.ndarray, "N"]:
    """Which images have a key among `keys`."""
    return np.asarray(np.isin(rows, keys)).reshape(-1, 2).max(1, initial=False)


def read_keys(path: Path) -> Keys:
    """The keys in a file. Raises DataError where it is damaged."""
    try:
        content = read_regular(path, LARGEST)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", next_step="copy it again") from None
    keys = np.frombuffer(content, "S16") if len(content) % 16 == 0 else NO_KEYS
    if len(content) % 16 or (keys[1:] <= keys[:-1]).any():
        raise DataError(f"{path} is damaged: it is no list of sorted keys", next_step="copy it again")
    return keys


def write_keys(path: Path, keys: Keys) -> None:
    """The keys as a file of 16 bytes each; whole or not at all."""
    write_whole(path, keys.tobytes())


def _keys_of_one(source: Source, index: int) -> tuple[bytes, bytes]:
    try:
        content = source[index].content
    except DecodeError:  # it cannot be read: no image has this key
        return (_hash(source.keys[index].encode(), b"unreadable"),) * 2
    key = content_key(content)
    if isinstance(content, np.ndarray) or len(content) > SMALL_PNG or not content.startswith(_PNG):
        return key, key
    try:
        return key, content_key(decode(content))
    except DecodeError:
        return key, key


def _hash(content: bytes, kind: bytes = b"") -> bytes:
    return hashlib.blake2b(content, digest_size=16, person=kind).digest()
