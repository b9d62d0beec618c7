"""Safetensors files. Every claim of a header is checked before the tensors are read."""

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
from torch import Tensor

from vitrail.config import parse_json
from vitrail.errors import WeightsError
from vitrail.storage import open_regular

LARGEST_HEADER = 1 << 20
MOST_TENSORS = 20_000
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


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
    """The file's metadata. WeightsError unless the header is small, its tensors few and plainly named, none twice.

    safetensors checks that the tensors have their sizes, lie end to end and fill the file. It accepts odd names,
    duplicates and headers of 100 MB; this does not.
    """
    try:
        size = path.stat().st_size
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise damaged(path, f"its header claims {length:,} bytes, of a file of {size:,}")
            names = parse_json(file.read(length)).keys() - {"__metadata__"}
        if len(names) > MOST_TENSORS:
            raise ValueError(f"{len(names):,} tensors; {MOST_TENSORS:,} are allowed")
        if odd := [name for name in names if not _NAME.fullmatch(name)]:
            raise ValueError(
                f"the tensor name {odd[0][:50]!r} has other characters than letters, digits, '.', '_' and '-'"
            )
        with safetensors.safe_open(path, "pt") as sound:
            return sound.metadata() or {}
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})", next_step="check the path") from None
    except (ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
        raise damaged(path, f"header: {error}") from None


def damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a sound weights file: {why}", next_step="fetch or copy the file again")


def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Of each tensor that has some, how many of its numbers are NaN or infinite."""
    counts = {name: tensor.numel() - int(tensor.isfinite().sum()) for name, tensor in tensors.items()}
    return {name: count for name, count in counts.items() if count}
