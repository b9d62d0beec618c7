"""Safetensors files. Every claim of a header is checked before the tensors are read."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from vitrail.config import parse_json
from vitrail.errors import WeightsError
from vitrail.storage import open_regular

LARGEST_HEADER = 1 << 20
MOST_TENSORS = 20_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_bytes(tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> bytes:
    """The tensors as a safetensors file with the metadata `about`."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(held, metadata=about)


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file, in memory of their own. WeightsError for a file that is damaged or was made to harm."""
    check_header(path)
    try:
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (safetensors.SafetensorError, RuntimeError, KeyError) as error:
        raise damaged(path, str(error)) from None


def check_header(path: Path) -> dict[str, str]:
    """The file's metadata, checked by the format's own rules and ours: a small header, few plain names, none twice, and
    sizes that add up to the file.

    The reader that follows accepts odd names, duplicates and headers of 100 MB; this does not.
    """
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise damaged(path, f"its header claims {length:,} bytes, of a file of {size:,}")
            header = file.read(length)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})", next_step="check the path") from None
    try:
        return _check_entries(parse_json(header), size - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise damaged(path, f"header: {error}") from None


def _check_entries(entries: dict[str, Any], size: int) -> dict[str, str]:
    """The metadata. Raises ValueError (or what odd JSON leads to) unless the tensors lie end to end and fill `size` bytes."""
    metadata = entries.pop("__metadata__", {})
    if not all(isinstance(word, str) for pair in metadata.items() for word in pair):
        raise ValueError("metadata that is not text")
    if len(entries) > MOST_TENSORS:
        raise ValueError(f"{len(entries):,} tensors; {MOST_TENSORS:,} are allowed")
    spans = []
    for name, entry in entries.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"the tensor name {name[:50]!r} has other characters than letters, digits, '.', '_' and '-'"
            )
        numbers = [*entry["shape"], *entry["data_offsets"]]
        if not all(type(number) is int and 0 <= number <= size for number in numbers):
            raise ValueError(f"{name} has a shape or offsets that cannot be")
        start, stop = entry["data_offsets"]
        if stop - start != _ITEM_SIZES[entry["dtype"]] * _product(entry["shape"]):
            raise ValueError(f"{name} of shape {entry['shape']} in {stop - start} bytes")
        spans.append((start, stop))
    end = 0
    for start, stop in sorted(spans):
        if start != end:
            raise ValueError(f"a gap or an overlap at byte {end}")
        end = stop
    if end != size:
        raise ValueError(f"tensors of {end:,} bytes in a file that holds {size:,}")
    return metadata


def _product(shape: list[int]) -> int:
    total = 1
    for number in shape:
        total *= number
    return total


def damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a sound weights file: {why}", next_step="fetch or copy the file again")


def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Of each tensor that has some, how many of its numbers are NaN or infinite."""
    counts = {name: tensor.numel() - int(tensor.isfinite().sum()) for name, tensor in tensors.items()}
    return {name: count for name, count in counts.items() if count}
