"""How a checkpoint gets onto a disk: written aside, synced, sealed, renamed.

Everything is written into a folder no reader looks at, every file synced, the manifest (size and checksum of each file) last,
the folder synced, then renamed and the parent synced. Any kill or power loss leaves the old state or the new one.
"""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import StorageError

MANIFEST, STATE = "manifest.json", "state.json"
SCHEMA = 1
LARGE, BLOCK = 64 << 20, 1 << 20
"""Files from this size on go straight to the disk, in blocks of this size: a gigabyte through the page cache took a CPU for
2.3 s, past it for 0.02 s."""
_STEP = re.compile(r"step-(\d{8,})")
_KINDS = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


class Crc32:
    """A checksum with the methods of hashlib's, for large files.

    It finds every flip within 32 neighbouring bits and misses one other damage in four thousand million, at a third of the
    time of sha256 and less where no instruction helps that: time taken from the training. Neither keeps out an enemy, who
    would change the manifest too.
    """

    name = "crc32"

    def __init__(self) -> None:
        self._value = 0

    def update(self, block: bytes | memoryview) -> None:
        self._value = zlib.crc32(block, self._value)

    def hexdigest(self) -> str:
        return f"{self._value:08x}"


CHECKSUMS = {"sha256": hashlib.sha256, Crc32.name: Crc32}
"""What a line of a manifest may hold beside the size."""


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def aside_of(folder: Path, step: int, owner: int) -> Path:
    """Where process `owner` writes it until it is whole."""
    return folder / f".writing-{step:08d}-{owner}"


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first; says nothing of their health."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _STEP.fullmatch(entry.name)))


@contextlib.contextmanager
def publishing(folder: Path, step: int, keep: int) -> Iterator[Path]:
    """A new folder to fill and `seal`; on leaving it becomes the checkpoint of `step`, and all but the newest `keep` go.

    Raises StorageError when the disk refuses; what was there before stays.
    """
    final, aside = folder_of(folder, step), aside_of(folder, step, os.getpid())
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        aside.mkdir()
        yield aside
        if final.exists():  # only ever a damaged one, or the same step done again
            final.rename(folder / f".replaced-{step:08d}-{os.getpid()}")
        aside.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        if isinstance(error, StorageError):
            raise
        raise refused(folder, step, error.strerror or str(error)) from error
    prune(folder, keep)


def refused(folder: Path, step: int, why: str) -> StorageError:
    """What to say when a disk says no."""
    return StorageError(
        f"the checkpoint of step {step} could not be written to {folder} ({why})",
        next_step="earlier checkpoints are untouched; free some space and resume with --resume",
    )


def seal(aside: Path, step: int, files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Writes the facts, and last the manifest of all files; then the folder itself is synced."""
    listed = {**files, STATE: write(aside / STATE, json.dumps(facts, indent=1).encode())}
    write(aside / MANIFEST, json.dumps({"schema": SCHEMA, "step": step, "files": listed}, indent=1).encode())
    sync_folder(aside)


def write(path: Path, *parts: bytes | memoryview) -> dict[str, Any]:
    """Writes and syncs a new file; gives its line of the manifest."""
    size = sum(map(len, parts))
    digest = Crc32() if size >= LARGE else hashlib.sha256()
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        straight = size >= LARGE and _past_the_cache(handle, True)
        for block in _blocks(parts):
            if straight and len(block) < BLOCK:
                _past_the_cache(handle, False)  # that wants whole blocks
            digest.update(block)
            _put(handle, block)
        os.fsync(handle)
    finally:
        os.close(handle)
    return {"size": size, digest.name: digest.hexdigest()}


def _blocks(parts: Sequence[bytes | memoryview]) -> Iterator[memoryview]:
    """The parts end to end, in blocks of one size but for the last; in one memory, aligned as a disk wants it."""
    block, filled = np.frombuffer(mmap.mmap(-1, BLOCK), np.uint8), 0
    for part in filter(len, parts):
        rest = np.frombuffer(part, np.uint8)
        while len(rest):
            taken = min(len(rest), BLOCK - filled)
            block[filled : filled + taken] = rest[:taken]  # numpy lets go of Python's lock meanwhile
            filled, rest = filled + taken, rest[taken:]
            if filled == BLOCK:
                yield block.data
                filled = 0
    if filled:
        yield block[:filled].data


def _past_the_cache(handle: int, on: bool) -> bool:
    """Turns the way past the page cache on or off; whether system and disk can (Linux, most file systems)."""
    if not hasattr(os, "O_DIRECT"):
        return False
    flags = fcntl.fcntl(handle, fcntl.F_GETFL)
    try:
        fcntl.fcntl(handle, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)
    except OSError:  # it says no: then through the cache
        return False
    return True


def _put(handle: int, content: memoryview) -> None:
    while len(content):
        content = content[os.write(handle, content) :]


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The tensors as a safetensors file: the length of the header, the header, then the numbers end to end.

    Written here and not by the library, which builds the whole file in memory while it holds Python's lock.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # wide items first: every tensor then starts at a multiple of its item size
    ordered = sorted(held.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header, end = {}, 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _KINDS[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return write(path, len(text).to_bytes(8, "little"), text, *(_bytes(tensor) for _, tensor in ordered))


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep`; each is renamed out of sight first, so that nobody reads half of it."""
    for step in steps_in(folder)[:-keep]:
        with contextlib.suppress(OSError):
            folder_of(folder, step).rename(folder / f".deleting-{step:08d}")
    _clear(folder)


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable: without it a rename can be lost with the power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Removes what an interrupted commit or prune left aside; the run's lock keeps other writers out."""
    for entry in folder.glob(".*-*"):
        if entry.name.startswith((".writing-", ".deleting-", ".replaced-")):
            shutil.rmtree(entry, ignore_errors=True)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data
