"""OpenVINO's folders, and ONNX files by OpenVINO (extra `openvino`). Its telemetry is switched off before it is imported."""

import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vitrail import machine
from vitrail.errors import ConfigError, WeightsError
from vitrail.prediction.artefact import FOLDER_FACTS, GRAPH, read_folder
from vitrail.prediction.exported_engine import ExportedEngine, missing
from vitrail.prediction.onnx_engine import read_onnx

log = logging.getLogger("vitrail")

HINTS = {"float32": "f32", "bfloat16": "bf16"}
"""OpenVINO's names of number formats. Unless told it takes bfloat16 where the CPU has it, so it is always told."""
NAMES = {"fp32": "float32", "bf16": "bfloat16"}


class OpenVinoEngine(ExportedEngine):
    """A graph in OpenVINO."""

    def run(self, images: np.ndarray) -> np.ndarray:
        return self.runs([images])[0]


def open_openvino(path: Path, *, device: str = "auto", precision: str = "auto") -> OpenVinoEngine:
    """The engine of a folder that `vitrail.export` wrote, or of its ONNX file, in the number format it was certified in.

    Raises WeightsError for a damaged or foreign one, ConfigError where OpenVINO lacks or the device is no CPU.
    """
    runtime = openvino()
    if device.partition(":")[0] not in ("auto", "cpu"):
        raise ConfigError(f"OpenVINO on {device!r}", allowed="auto, cpu")
    folder = path.parent if path.suffix == ".xml" else path
    if path.suffix == ".onnx":
        artefact, _ = read_onnx(path)
        graph: Any = runtime.Core().read_model(artefact.content)
    else:
        if not (folder / FOLDER_FACTS).is_file():
            raise WeightsError(
                f"{folder} was not written by `vitrail export`: it has no {FOLDER_FACTS} with class names, mean, std and resizing",
                next_step="export the weights with `vitrail export --to openvino`",
            )
        artefact = read_folder(folder)
        graph = runtime.Core().read_model(folder / GRAPH)
    kept = artefact.exported.precision
    asked = kept if precision == "auto" else NAMES[precision]
    runs = compile_graph(graph, floats_of(asked))
    given = runs.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    real = "int8" if asked == "int8" else {hint: name for name, hint in HINTS.items()}.get(given, given)
    if real != kept or path.suffix == ".onnx":
        certified = f"{artefact.exported.certificate.engine} in {kept}"
        log.warning("%s: its certificate is of %s; OpenVINO answers here, in %s", path, certified, real)
    return OpenVinoEngine(artefact, runs, "openvino on cpu", real)


def floats_of(precision: str) -> str:
    """The format of the products that are not in whole numbers: float32 in an int8 graph.

    OpenVINO 2026.4 with bfloat16 between int8 layers answers wrongly: 53 % on digits, where float32 between them has 98.6 %.
    """
    return "float32" if precision == "int8" else precision


def compile_graph(graph: Any, floats: str) -> Any:
    """The graph ready to run on as many threads as torch has."""
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[floats],
        "INFERENCE_NUM_THREADS": machine.model_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    return openvino().Core().compile_model(graph, "CPU", settings)


def openvino() -> Any:
    """The package, without its telemetry. ConfigError where it is not installed."""
    stop_telemetry()
    try:
        import openvino as runtime
    except ImportError:
        raise missing("openvino", "openvino") from None
    return runtime


def stop_telemetry() -> None:
    """Makes `openvino_telemetry` a module that is not there: openvino and nncf then use their empty stand-ins.

    Without this both send an event when they are imported, and take a missing answer for consent.
    """
    modules: dict[str, Any] = sys.modules  # pyrefly: ignore[bad-assignment]  # None means: not there
    if "openvino" not in modules and "openvino_telemetry" not in modules:
        modules["openvino_telemetry"] = None
