"""Tensor files, read with suspicion: every claim of a header is checked before a byte of it is believed."""

import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from vitrail.errors import WeightsError

LARGEST_HEADER = 1 << 20
MOST_TENSORS = 20_000
MOST_BLOWN_UP, SMALL = 8, 64 << 20
"""Numbers of weights hardly compress: an archive that holds many times its size was made to fill the memory."""
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ITEM_SIZES = {
    "BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
    "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8,
}  # fmt: skip


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """The tensors as a safetensors file."""
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file, in memory of their own. WeightsError for a file that is damaged or was made to harm."""
    check_header(path)
    try:
        return {name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()}
    except (safetensors.SafetensorError, RuntimeError, KeyError) as error:
        raise _damaged(path, str(error)) from None


def check_header(path: Path) -> None:
    """The format's own rules and ours: a small header, few plain names, none twice, and sizes that add up to the file.

    The reader that follows accepts odd names, duplicates and headers of 100 MB; this does not.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(LARGEST_HEADER, size - 8):
                raise _damaged(path, f"its header claims {length:,} bytes, of a file of {size:,}")
            header = file.read(length)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})", next_step="check the path") from None
    try:
        entries = json.loads(header, object_pairs_hook=_no_duplicates)
        _check_entries(entries, size - 8 - length)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _damaged(path, f"header: {error}") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a name stands there twice")
    return entries


def _check_entries(entries: dict[str, Any], size: int) -> None:
    """Raises ValueError (or what odd JSON leads to) unless the tensors lie end to end and fill `size` bytes."""
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


def _product(shape: list[int]) -> int:
    total = 1
    for number in shape:
        total *= number
    return total


def read_npz(path: Path) -> dict[str, Tensor]:
    """All arrays of a numpy archive. Object arrays, which would need unpickling, are refused."""
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > MOST_BLOWN_UP * path.stat().st_size + SMALL:
            raise ValueError(f"a file of {path.stat().st_size:,} bytes claims to hold {claimed:,}")
        with np.load(path, allow_pickle=False) as archive:
            return {name: _tensor(archive[name]) for name in archive.files}
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise _damaged(path, str(error)) from None


@dataclass(frozen=True)
class Content:
    """The tensors of a file, and what else stood there."""

    tensors: dict[str, Tensor]
    wrapped: bool = False
    """They lay under "model", as facebookresearch saves them."""
    left: tuple[str, ...] = ()
    """Names beside "model": an optimiser, an epoch."""


def read_any(path: Path) -> Content:
    """The tensors of a file in any format that is read here; WeightsError for another, or a damaged one."""
    if path.suffix not in READERS:
        allowed = "a run folder, a bundle folder, " + ", ".join(f"*{suffix}" for suffix in READERS)
        raise WeightsError(f"{path} is no weights file that is read here", allowed=allowed)
    found = READERS[path.suffix](path)
    return found if isinstance(found, Content) else Content(found)


# the first bytes of a zip archive, which torch.save writes; and of what it wrote before 1.6
_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_pth(path: Path) -> Content:
    """A file of torch.save: tensors by name, by themselves or under "model". Nothing but tensors, numbers and words is
    ever made of it (torch's `weights_only`), there is no second try without that, and even that is done by a child
    process that can do no harm (`weights.confined`).
    """
    from vitrail.weights.files.confined import confined

    return confined(open_pth, path)


def open_pth(path: Path, file: IO[bytes]) -> Content:
    """What `read_pth` does, in this process."""
    try:
        start = file.read(len(_LEGACY))
        if start.startswith(_ZIP):
            _check_archive(path, file)
        elif start != _LEGACY:
            raise _damaged(path, "it is not what torch.save writes")
        file.seek(0)
        with warnings.catch_warnings():  # of what torch thinks of old files
            warnings.simplefilter("ignore")
            found = torch.load(file, map_location="cpu", weights_only=True)
        return _content(path, found)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})", next_step="check the path") from None
    except WeightsError:
        raise
    except Exception as error:  # a made-up stream of opcodes can fail in any way
        named = re.search(r"(?:GLOBAL|class|function) ([\w.]+)", str(error))  # torch's own advice would open it
        why = f"it wants {named[1]}" if named else type(error).__name__
        raise WeightsError(
            f"{path} holds more than tensors, or is damaged ({why})",
            next_step="it is not opened in any other way; ask its author for a .safetensors or a plain state dict",
        ) from None


def _check_archive(path: Path, file: IO[bytes]) -> None:
    """torch stores its entries uncompressed: one that claims more than the file holds was made to harm."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    size = path.stat().st_size
    if len(set(names)) != len(names) or len(names) > 2 * MOST_TENSORS:
        raise _damaged(path, "its archive names an entry twice, or too many")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise _damaged(path, "its archive is compressed or encrypted")
    if any(name.startswith("/") or ".." in name.split("/") for name in names):
        raise _damaged(path, "its archive names paths outside of itself")
    if sum(entry.file_size for entry in entries) > size:
        raise _damaged(path, "its archive claims more bytes than it has")


def _content(path: Path, found: Any) -> Content:
    """The tensors, each in memory of its own. Views that repeat one number without end are refused."""
    wrapped = isinstance(found, dict) and isinstance(found.get("model"), dict)
    tensors = found["model"] if wrapped else found
    if not isinstance(tensors, dict) or not tensors:
        raise _damaged(path, f"it holds a {type(tensors).__name__}, not tensors by name")
    inside = [
        str(name)[:50]
        for name, part in tensors.items()
        if isinstance(part, dict) and any(map(_is_plain, part.values()))
    ]
    if inside:
        raise WeightsError(
            f"{path} holds tensors under {', '.join(inside[:5])}, and of these it is not said which",
            allowed="tensors by name, or under 'model'",
            next_step=f"save the part in question by itself: torch.save(torch.load(old, weights_only=True)[{inside[0]!r}], new)",
        )
    odd = [str(name)[:50] for name, tensor in tensors.items() if not (isinstance(name, str) and _is_plain(tensor))]
    if odd:
        raise _damaged(path, f"not a plain tensor: {', '.join(odd[:5])}")
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * path.stat().st_size:
        raise _damaged(path, "its tensors claim more bytes than it has")
    left = tuple(str(name) for name in found if name != "model") if wrapped else ()
    return Content({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, wrapped, left)


def _is_plain(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.device.type == "cpu"


def read_onnx(path: Path) -> dict[str, Tensor]:
    """The constants of an ONNX graph by name. Tensors in other files are refused: a path in a file is not followed."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError:
        raise WeightsError(f"{path} is an ONNX file", next_step="pip install onnx, to read it") from None
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
            raise _damaged(path, "its tensors lie in another file")
        return {tensor.name: _tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer}
    except (OSError, ValueError, TypeError, DecodeError) as error:
        raise _damaged(path, str(error)) from None


def _tensor(array: Any) -> Tensor:
    if not isinstance(array, np.ndarray):
        raise ValueError("an entry is no array")
    if array.dtype == np.dtype("V2"):  # numpy knows no bfloat16: JAX writes its two bytes as "void"
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


def _damaged(path: Path, why: str) -> WeightsError:
    return WeightsError(f"{path} is not a sound weights file: {why}", next_step="fetch or copy the file anew")


READERS: dict[str, Any] = {".npz": read_npz, ".safetensors": read_safetensors, ".onnx": read_onnx}
READERS |= dict.fromkeys((".pth", ".pt", ".bin"), read_pth)


def not_finite(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Of each tensor that has some, how many of its numbers are NaN or infinite."""
    counts = {name: tensor.numel() - int(tensor.isfinite().sum()) for name, tensor in tensors.items()}
    return {name: count for name, count in counts.items() if count}
