"""Exported models on disk: the facts that travel with a graph, and the proof that no byte of it has changed.

An ONNX file keeps them in its metadata: `vitrail.export` (JSON: record, sizes, certificate) and `vitrail.trained_keys`. Its last
bytes are one more entry, `vitrail.sha256`, over all bytes before. Every reader of ONNX takes the file, for protobuf allows
more entries at the end. A folder of OpenVINO has the same facts in `export.json`, next to `model.xml` and `model.bin`.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitrail import config as configs
from vitrail.errors import VitrailError, WeightsError
from vitrail.images.content_keys import NO_KEYS, Keys
from vitrail.weights.record import Record
from vitrail.weights.trained_on import read_trained_keys

FACTS, KEYS, DIGEST = "vitrail.export", "vitrail.trained_keys", "vitrail.sha256"
FOLDER_FACTS, GRAPH, GRAPH_WEIGHTS = "export.json", "model.xml", "model.bin"
_SEAL = 84
"""Bytes of the entry with the sha256: it ends every ONNX file."""


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """An image whose first class is another one after the export."""

    image: str
    before: str
    after: str
    margin: float
    """Logit of the class before minus that of the class after, as torch has them, over the deviation of logits."""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Answers of the exported graph beside those of the model in torch, float32."""

    what: str
    images: int
    difference: float
    """The largest difference of a logit over the deviation of the logits."""
    agreement: float
    """Share of images with the same first class."""
    disagreements: tuple[Disagreement, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Top-1 on images that were not trained on, before and after the export."""

    data: str
    images: int
    before: float
    after: float
    drop: float
    """In points: 0.3 means 0.3 % of the images."""
    interval: tuple[float, float]
    """The 95 % interval of the drop, paired: both models answered the same images."""
    within: float
    """The drop that was allowed, in points."""

    @property
    def shown(self) -> bool:
        """Whether these images show that the drop is within the bound: the whole interval is."""
        return self.interval[1] <= self.within


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """Everything that was checked before the file was written."""

    engine: str
    """Runtime and version."""
    machine: str
    vitrail: str
    """Version of this package."""
    checks: tuple[Compared, ...] = ()
    accuracy: Accuracy | None = None
    not_shown: tuple[str, ...] = ()
    """Sentences on what too few images could not show."""


@dataclass(frozen=True, kw_only=True)
class Exported:
    """The facts that travel with an exported graph."""

    record: Record
    """The model's record: config, preprocessing, classes, licence, sha256 of its weights."""
    certificate: Certificate
    precision: str = "float32"
    """Number format of the products: "float32", "bfloat16", "int8"."""
    any_size: bool = False
    """Whether the graph takes every height and width that the model takes, or only that of the preprocessing."""
    merge: int = 0
    """Tokens merged in each block."""
    floats: bool = False
    """Whether the graph reads normalised float images, as browsers send them, and not 8-bit pixels."""


@dataclass(frozen=True, eq=False)
class Artefact:
    """An exported graph with its facts, checked to be whole."""

    path: Path
    exported: Exported
    sha256: str
    trained_keys: Keys | None = None
    content: bytes = b""
    """The ONNX file. Empty for a folder."""


def seal_onnx(graph: bytes, exported: Exported, keys: Keys | None) -> bytes:
    """The ONNX file: a serialised graph, its facts, and the sha256 of both."""
    facts = {FACTS: json.dumps(configs.to_dict(exported), ensure_ascii=False)}
    if keys is not None:
        facts[KEYS] = base64.b64encode(keys.tobytes()).decode()
    content = graph + b"".join(_entry(key, value) for key, value in facts.items())
    return content + _entry(DIGEST, hashlib.sha256(content).hexdigest())


def _entry(key: str, value: str) -> bytes:
    """One of ModelProto's `metadata_props` (field 14) in protobuf's coding: key is field 1, value is field 2."""
    pair = b"".join(
        tag + _length(len(text)) + text for tag, text in ((b"\x0a", key.encode()), (b"\x12", value.encode()))
    )
    return b"\x72" + _length(len(pair)) + pair


def _length(number: int) -> bytes:
    """A whole number in protobuf's variable coding: seven bits a byte, the last without its top bit."""
    low, rest = number & 127, number >> 7
    return bytes([low | 128]) + _length(rest) if rest else bytes([low])


def check_onnx(path: Path, content: bytes) -> str:
    """The sha256 of an ONNX file, its last entry. WeightsError where a byte differs; "" for a file that has no such entry."""
    body, seal = content[:-_SEAL], content[-_SEAL:]
    if DIGEST.encode() not in seal:
        return ""
    digest = hashlib.sha256(body).hexdigest()
    if seal != _entry(DIGEST, digest):
        raise WeightsError(
            f"{path} is damaged: its sha256 is {digest[:12]}…, not the one in its last bytes",
            next_step="copy it again, or export the model again",
        )
    return digest


def facts_of_onnx(path: Path, metadata: Mapping[str, str], told: str) -> tuple[Exported, Keys | None]:
    """The facts in an ONNX file's metadata. `told` says in words what a stranger's graph reads and gives."""
    if FACTS not in metadata:
        raise WeightsError(
            f"{path} was not written by `vitrail export`: {told}; class names, mean, std and resizing are not in it",
            next_step="export the weights with `vitrail export`, or run this file with onnxruntime",
        )
    keys = base64.b64decode(metadata[KEYS]) if KEYS in metadata else None
    return parse_facts(path, metadata[FACTS]), None if keys is None else np.frombuffer(keys, NO_KEYS.dtype)


def parse_facts(path: Path, text: str) -> Exported:
    """The facts out of JSON. WeightsError for those of another version."""
    data = None
    try:
        data = configs.parse_json(text)
        return configs.from_dict(Exported, data, where="facts")
    except (ValueError, VitrailError) as error:
        version = data.get("certificate", {}).get("vitrail", "another") if isinstance(data, dict) else "another"
        found = error.found if isinstance(error, VitrailError) else error
        raise WeightsError(
            f"{path} was written by version {version} of vitrail, and this version cannot read it ({found})",
            next_step="export the model again with this version, or install that one",
        ) from None


@dataclass(frozen=True, kw_only=True)
class Folder:
    """`export.json` of an OpenVINO folder."""

    exported: Exported
    sha256: dict[str, str]
    """Of each file of the graph, by name."""


def describe_folder(folder: Path, exported: Exported) -> str:
    """The text of `export.json` for the graph in this folder."""
    files = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in (GRAPH, GRAPH_WEIGHTS)}
    return configs.sealed_json(Folder(exported=exported, sha256=files))


def read_folder(folder: Path) -> Artefact:
    """The facts of an OpenVINO folder. WeightsError where a file of it was changed, or lacks."""
    try:
        facts = configs.read_json(Folder, folder / FOLDER_FACTS)
        for name, digest in facts.sha256.items():
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
                raise WeightsError(f"{folder / name} is damaged: its sha256 is not that of {FOLDER_FACTS}")
    except (OSError, VitrailError) as error:
        found = error.found if isinstance(error, VitrailError) else f"{folder} has no readable {error.filename}"
        raise WeightsError(found, next_step="copy the folder again, or export the model again") from None
    digest = hashlib.sha256("".join(facts.sha256.values()).encode()).hexdigest()
    return Artefact(folder, facts.exported, digest, read_trained_keys(folder))
