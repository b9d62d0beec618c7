"""Weights files by format: safetensors, npz, pth, onnx. A format that is not in the table is refused.

Nothing is unpickled. torch's `weights_only` reader makes tensors, numbers and words, and there is no second try.
"""

import re
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.npy import read_archive
from vitrail.storage import open_regular, read_regular
from vitrail.weights.files.safe import MOST_TENSORS, damaged, read_safetensors

LARGEST_ONNX = 2 << 30
"""Bytes: the most that the format can hold."""
RUNS_CODE = dict.fromkeys((".pkl", ".pickle", ".joblib", ".dill"), "a pickle, which runs code when it is opened")
RUNS_CODE |= dict.fromkeys((".h5", ".hdf5", ".keras", ".pb"), "a program of Keras or TensorFlow")
RUNS_CODE |= dict.fromkeys((".mlmodel", ".engine", ".plan", ".pt2"), "a program, not a file of tensors")
ASK_FOR = "ask its author for a .safetensors file"


@dataclass(frozen=True)
class Content:
    """The tensors of a file, and the names of all else in it."""

    tensors: dict[str, Tensor]
    wrapped: bool = False
    """They lay under "model", as facebookresearch saves them."""
    left: tuple[str, ...] = ()
    """Names next to "model": an optimiser, an epoch."""


def read_any(path: Path) -> Content:
    """The tensors of a file in a format of `READERS`. WeightsError for another format, or a damaged file."""
    if path.suffix in RUNS_CODE:
        raise WeightsError(f"{path} is {RUNS_CODE[path.suffix]}; it is not opened", next_step=ASK_FOR)
    if path.suffix not in READERS:
        allowed = "a run folder, a bundle folder, " + ", ".join(f"*{suffix}" for suffix in READERS)
        raise WeightsError(f"{path} is not a weights file that Vitrail reads", allowed=allowed)
    return READERS[path.suffix](path)


def read_npz(path: Path) -> Content:
    """All arrays of a numpy archive. Arrays of objects, which need unpickling, are refused."""
    try:
        return Content({name: _tensor(array) for name, array in read_archive(path)})
    except (ValueError, TypeError) as error:
        raise damaged(path, str(error)) from None


# the first bytes of a zip archive, which torch.save writes; and of what it wrote before 1.6
_ZIP, _LEGACY = b"PK\x03\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def read_pth(path: Path) -> Content:
    """A file of torch.save: tensors by name, alone or under "model". WeightsError for anything else in it."""
    try:
        with open_regular(path) as file:
            start = file.read(len(_LEGACY))
            if start.startswith(_ZIP):
                _check_archive(path, file)
            elif start != _LEGACY:
                raise damaged(path, "torch.save does not write such a file")
            file.seek(0)
            with warnings.catch_warnings():  # torch warns about old files
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
        raise WeightsError(f"{path} holds more than tensors, or is damaged ({why})", next_step=ASK_FOR) from None


def _check_archive(path: Path, file: IO[bytes]) -> None:
    """torch stores its entries uncompressed. An entry that claims more than the file holds was made to harm."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    names = [entry.filename for entry in entries]
    size = path.stat().st_size
    if any("/code/" in name for name in names):
        raise WeightsError(
            f"{path} is a program of TorchScript, which is not opened",
            next_step="take its tensors where you trust it: torch.save(torch.jit.load(OLD).state_dict(), NEW)",
        )
    if len(set(names)) != len(names) or len(names) > 2 * MOST_TENSORS:
        raise damaged(path, "its archive names an entry twice, or has too many")
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 for entry in entries):
        raise damaged(path, "its archive is compressed or encrypted")
    if any(name.startswith("/") or ".." in name.split("/") for name in names):
        raise damaged(path, "its archive names paths outside of itself")
    if sum(entry.file_size for entry in entries) > size:
        raise damaged(path, "its archive claims more bytes than it has")


def _content(path: Path, found: Any) -> Content:
    """The tensors, each in memory of its own. A view that repeats one number many times is refused."""
    wrapped = isinstance(found, dict) and isinstance(found.get("model"), dict)
    tensors = found["model"] if wrapped else found
    if not isinstance(tensors, dict) or not tensors:
        raise damaged(path, f"it holds a {type(tensors).__name__}, not tensors by name")
    parts = {name: part for name, part in tensors.items() if isinstance(part, dict)}
    inside = [str(name)[:50] for name, part in parts.items() if any(map(_is_plain, part.values()))]
    if inside:
        raise WeightsError(
            f"{path} holds tensors under {', '.join(inside[:5])}",
            allowed="tensors by name, or under 'model'",
            next_step=f"save one part alone: torch.save(torch.load(old, weights_only=True)[{inside[0]!r}], new)",
        )
    odd = [str(name)[:50] for name, tensor in tensors.items() if not (isinstance(name, str) and _is_plain(tensor))]
    if odd:
        raise damaged(path, f"not a plain tensor: {', '.join(odd[:5])}")
    if sum(tensor.nbytes for tensor in tensors.values()) > 2 * path.stat().st_size:
        raise damaged(path, "its tensors claim more bytes than it has")
    left = tuple(str(name) for name in found if name != "model") if wrapped else ()
    return Content({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, wrapped, left)


def _is_plain(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and tensor.layout is torch.strided and tensor.device.type == "cpu"


def read_onnx(path: Path) -> Content:
    """The constants of an ONNX graph by name. A path in the file is not followed: tensors elsewhere are refused."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
        from onnx import numpy_helper
    except ImportError:
        raise WeightsError(f"{path} is an ONNX file", next_step="pip install onnx, to read it") from None
    try:
        graph = onnx.load_model_from_string(read_regular(path, LARGEST_ONNX)).graph
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
            raise damaged(path, "its tensors lie in another file")
        return Content({tensor.name: _tensor(numpy_helper.to_array(tensor)) for tensor in graph.initializer})
    except (OSError, ValueError, TypeError, KeyError, DecodeError) as error:
        raise damaged(path, str(error)) from None


def _tensor(array: Any) -> Tensor:
    if not isinstance(array, np.ndarray):
        raise ValueError("an entry is no array")
    if array.dtype == np.dtype("V2"):  # numpy knows no bfloat16: JAX writes its two bytes as "void"
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array, order="C"))


READERS: dict[str, Callable[[Path], Content]] = {
    ".safetensors": lambda path: Content(read_safetensors(path)),
    ".npz": read_npz,
    ".pth": read_pth,
    ".pt": read_pth,
    ".bin": read_pth,
    ".onnx": read_onnx,
}
