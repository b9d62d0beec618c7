"""Which engine answers for a path: torch for weights, ONNX Runtime and OpenVINO for exported graphs."""

from collections.abc import Callable
from pathlib import Path

from vitrail.errors import ConfigError, WeightsError
from vitrail.prediction.artefact import FOLDER_FACTS, GRAPH
from vitrail.prediction.exported_engine import ExportedEngine
from vitrail.prediction.onnx_engine import open_onnx
from vitrail.prediction.openvino_engine import open_openvino
from vitrail.registry import Registry

ENGINES = Registry[Callable[..., ExportedEngine]]("engine")
"""The runtimes of exported graphs: functions of (path, device=, precision=)."""
ENGINES.register("onnxruntime", open_onnx)
ENGINES.register("openvino", open_openvino)


def is_exported(path: object) -> bool:
    """Whether this names an ONNX file or a folder of OpenVINO, and not weights."""
    if not isinstance(path, str | Path):
        return False
    path = Path(path)
    return path.suffix in (".onnx", ".xml") or (path / FOLDER_FACTS).is_file() or (path / GRAPH).is_file()


def open_engine(
    path: str | Path,
    *,
    engine: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    size: int | tuple[int, int] | None = None,
) -> ExportedEngine:
    """An exported graph, ready to answer. `auto` takes ONNX Runtime for an ONNX file and OpenVINO for its own folder.

    Raises WeightsError for a damaged or foreign file, ConfigError where the runtime is not installed, ShapeError for a
    wrong `size`.
    """
    path = Path(path)
    if not path.exists():
        raise WeightsError(f"there is nothing at {path}", next_step="name a file that `vitrail export` wrote")
    of_path = "onnxruntime" if path.suffix == ".onnx" else "openvino"
    name = of_path if engine == "auto" else engine
    if name == "torch":
        raise ConfigError(f"{path} is a graph, not weights: torch does not run it", allowed=of_path)
    found = ENGINES[name](path, device=device, precision=precision)
    return found if size is None else found.at_size((size, size) if isinstance(size, int) else size)
