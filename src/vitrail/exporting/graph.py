"""A model as one ONNX graph: 8-bit pixels in, logits out, any batch, and any height and width where the family can.

Two traps of the exporter are avoided here (torch 2.11 to 2.14). The batch is 2 or more while it is traced, for a size
of 1 becomes a constant. The traced height and width are not the model's own, so the graph resizes positions at every
size.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Generator
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.export import Dim

from vitrail.errors import ConfigError, ShapeError
from vitrail.images.preprocess import Preprocess
from vitrail.models.backbone import Backbone, ModelConfig
from vitrail.prediction.exported_engine import missing

LARGEST = 1_900_000_000
"""Bytes of weights that fit into one ONNX file; protobuf ends at 2 GiB."""
TRACED = 3
"""Images in the traced batch: 2 or more."""


class FromPixels(nn.Module):
    """A model behind its normalisation: (x / 255 - mean) / std stands in the graph and cannot be forgotten."""

    scale: Tensor
    shift: Tensor

    def __init__(self, model: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.model = model
        std, mean = (torch.tensor(values, dtype=torch.float64) for values in (preprocess.std, preprocess.mean))
        for name, values in (("scale", 1 / (255 * std)), ("shift", -mean / std)):
            self.register_buffer(name, values.float().view(-1, 1, 1))

    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.model(images.float() * self.scale + self.shift)


def to_onnx(model: Backbone, preprocess: Preprocess, *, any_size: bool, floats: bool = False) -> bytes:
    """The graph, serialised. `floats` leaves the normalisation out, and names the input as browsers want it.

    Raises ConfigError where the exporter is not installed, the model does not fit into one file, or cannot be converted.
    """
    require_exporter()
    check_bytes(model)
    graph = model if floats else FromPixels(model, preprocess)
    size = beside(model.config, preprocess.size) if any_size else preprocess.size
    images = torch.zeros(TRACED, preprocess.channels, *size, dtype=torch.float32 if floats else torch.uint8)
    shapes = dynamic_shapes(model.config, any_size)
    try:
        with quietly(), torch.no_grad():
            program: Any = torch.onnx.export(
                graph.eval(),
                (images,),
                dynamo=True,
                verbose=False,
                input_names=["pixel_values" if floats else "images"],
                output_names=["logits"],
                dynamic_shapes=(shapes,),
            )
    except (torch.onnx.OnnxExporterError, RuntimeError) as error:
        raise ConfigError(
            f"torch cannot convert this {model.config.family} to ONNX ({_reason(error)})",
            next_step="export a vit, deit, resnet, hybrid or maxvit",
        ) from error
    return without_traces(program.model_proto).SerializeToString()


def dynamic_shapes(config: ModelConfig, any_size: bool) -> dict[int, Any]:
    """The dimensions that stay open: batch always; height and width in steps that the model takes."""
    shapes: dict[int, Any] = {0: Dim("batch", min=1, max=1 << 16)}
    if any_size:
        step = 1 if takes_every_size(config) else config.multiple
        for axis, name in ((2, "height"), (3, "width")):
            side = Dim(name if step == 1 else f"{name}_of_{step}", min=1, max=1 << 12)
            shapes[axis] = side if step == 1 else step * side
    return shapes


def takes_every_size(config: ModelConfig) -> bool:
    """Whether heights and widths need not be multiples of anything."""
    odd = 3 * config.multiple + 1
    try:
        config.grid_at((odd, odd))
    except ShapeError:
        return False
    return True


def beside(config: ModelConfig, size: tuple[int, int]) -> tuple[int, int]:
    """A size near this one, that is neither this one nor the model's own, nor square."""
    height, width = (side - side % config.multiple for side in size)
    return height + config.multiple, width + 3 * config.multiple


def check_bytes(model: nn.Module) -> None:
    """ConfigError for a model that one ONNX file cannot hold."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    if size > LARGEST:
        raise ConfigError(f"{size / 2**30:.1f} GiB of weights", allowed="1.7 GiB: an ONNX file ends at 2 GiB")


def require_exporter() -> None:
    """ConfigError unless onnx and onnxscript are installed."""
    try:
        import onnx
        import onnxscript
    except ImportError as error:
        raise missing(error.name or "onnx", "export") from None
    del onnx, onnxscript


def without_traces(model: Any) -> Any:
    """The same protobuf without the stack traces that the exporter writes: they name folders of this machine."""
    model.graph.ClearField("metadata_props")
    for graph in (model.graph, *model.functions):
        for node in graph.node:
            node.ClearField("metadata_props")
            node.ClearField("doc_string")
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")
    return model


@contextlib.contextmanager
def quietly() -> Generator[None]:
    """Inside, an exporter neither prints nor warns nor logs: the gate judges its work."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "nncf")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of the deepest cause."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
