"""ONNX files, answered by ONNX Runtime (extra `export`)."""

from pathlib import Path
from typing import Any

import numpy as np

from vitrail import machine
from vitrail.errors import ConfigError, WeightsError
from vitrail.prediction.artefact import Artefact, check_onnx, facts_of_onnx
from vitrail.prediction.exported_engine import ExportedEngine, missing
from vitrail.storage import read_regular

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LARGEST = (2 << 30) - 1
"""Bytes of an ONNX file in one piece: protobuf's limit."""


class OnnxEngine(ExportedEngine):
    """A graph in ONNX Runtime."""

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.runs.run(None, {self.runs.get_inputs()[0].name: images})[0]


def open_onnx(path: Path, *, device: str = "auto", precision: str = "auto") -> OnnxEngine:
    """The engine of an ONNX file that `vitrail.export` wrote.

    Raises WeightsError for a damaged file, a stranger's, and one of another version; ConfigError where ONNX Runtime lacks.
    """
    artefact, session = read_onnx(path, device)
    given = artefact.exported.precision
    if precision not in ("auto", "fp32" if given == "float32" else given):
        raise ConfigError(f"precision {precision!r} for {path}, whose numbers are {given}", allowed="auto")
    where = "cuda" if session.get_providers()[0] == PROVIDERS["cuda"] else "cpu"
    return OnnxEngine(artefact, session, f"onnxruntime on {where}", given)


def read_onnx(path: Path, device: str = "auto") -> tuple[Artefact, Any]:
    """An ONNX file's facts, and a session of ONNX Runtime for the same bytes."""
    runtime = onnxruntime()
    try:
        content = read_regular(path, LARGEST)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})", next_step="check the name") from None
    digest = check_onnx(path, content)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = machine.model_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # a waiting thread leaves its core
    options.log_severity_level = 4  # its errors come as exceptions too
    providers = _providers(runtime, device)
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # pybind's classes have no common base
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path} is not an ONNX graph that can be run ({reason})", next_step="export again"
        ) from None
    metadata = session.get_modelmeta().custom_metadata_map
    exported, keys = facts_of_onnx(path, metadata, _describe(session))
    if not digest:
        raise WeightsError(f"{path} is damaged: its sha256 is not at its end", next_step="copy or export it again")
    return Artefact(path, exported, digest, keys, content), session


def onnxruntime() -> Any:
    """The package, its telemetry off. ConfigError where it is not installed."""
    try:
        import onnxruntime as runtime
    except ImportError:
        raise missing("onnxruntime", "export") from None
    runtime.disable_telemetry_events()
    return runtime


def _providers(runtime: Any, device: str) -> list[str]:
    there = runtime.get_available_providers()
    kind = device.partition(":")[0]
    if kind == "auto":
        kind = "cuda" if PROVIDERS["cuda"] in there else "cpu"
    if PROVIDERS.get(kind) not in there:
        allowed = ", ".join(name for name, provider in PROVIDERS.items() if provider in there)
        raise ConfigError(f"ONNX Runtime cannot use the device {device!r} here", allowed=f"auto, {allowed}")
    return [PROVIDERS[kind]]


def _describe(session: Any) -> str:
    """The inputs and outputs of a graph in words."""

    def one(value: Any) -> str:
        shape = "×".join(str(side) if isinstance(side, int) else "?" for side in value.shape)
        return f"{value.name} ({value.type.removeprefix('tensor(').rstrip(')')}, {shape})"

    ins, outs = (", ".join(map(one, values)) for values in (session.get_inputs(), session.get_outputs()))
    return f"it reads {ins} and gives {outs}"
