"""Weights in several files, as transformers saves large models: an index says which tensor lies in which file beside it."""

import hashlib
import re
from collections import defaultdict
from pathlib import Path

from torch import Tensor

from vitrail.config import read_object
from vitrail.errors import WeightsError
from vitrail.weights.files.hub import refuse_link
from vitrail.weights.files.readers import READERS, Content, read_any
from vitrail.weights.files.safe import sha256

INDEX = ".index.json"
_PLAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


def read_content(path: Path) -> Content:
    """The tensors of a weights file, or of all files that an index lists."""
    return Content(read_shards(path)) if path.name.endswith(INDEX) else read_any(path)


def read_shards(index: Path) -> dict[str, Tensor]:
    """The tensors of all files together.

    WeightsError for a missing file, and for one with other tensors than the index says. A name may not lead out of the folder.
    """
    tensors: dict[str, Tensor] = {}
    for file, names in shards(index).items():
        if not file.is_file():
            raise WeightsError(
                f"{index.name} names {file.name}, which is not beside it", next_step="fetch the files it names"
            )
        found = read_any(refuse_link(file)).tensors
        if found.keys() != names:
            odd = ", ".join(sorted(found.keys() ^ names)[:5])
            raise WeightsError(
                f"{file} and {index.name} do not agree about {odd}", next_step="fetch both again, of the same model"
            )
        tensors |= found
    return tensors


def shards(index: Path) -> dict[Path, set[str]]:
    """The files an index names, and the tensors of each."""
    named: dict[Path, set[str]] = defaultdict(set)
    listed = read_object(index, WeightsError).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(f"{index} has no weight_map", next_step="fetch it again, or name one file")
    for tensor, file in listed.items():
        if not (isinstance(file, str) and _PLAIN.fullmatch(file) and Path(file).suffix in READERS):
            raise WeightsError(f"{index} names {str(file)[:80]!r}", allowed="names of weights files that lie beside it")
        named[index.with_name(file)].add(tensor)
    return named


def digest(path: Path) -> str:
    """The sha256 of a weights file; of shards, that of their digests, file by file in the order of their names."""
    if not path.name.endswith(INDEX):
        return sha256(path)
    return hashlib.sha256("".join(sha256(file) for file in sorted(shards(path))).encode()).hexdigest()
