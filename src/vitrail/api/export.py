"""`vitrail.export`: a trained model as a file for other programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Literal

from vitrail.api.models import Model, Size, open_model
from vitrail.errors import ConfigError
from vitrail.exporting.onnx_file import Written, export_onnx
from vitrail.exporting.subject import Subject, open_subject
from vitrail.images.samples import Splits
from vitrail.registry import Registry

Target = Literal["onnx"]
TARGETS = Registry[Callable[..., Written]]("export target", {"onnx": export_onnx})
"""Kinds of exports: functions of (subject, out)."""
ENDINGS = {"onnx": ".onnx"}


def export(
    model: Model,
    data: str | Path | Splits | None = None,
    *,
    to: Target = "onnx",
    out: str | Path | None = None,
    size: Size = None,
    say: Callable[[str], object] = lambda text: None,
) -> Written:
    """Writes a model for other programs, with a certificate; a wrong graph is not written.

        vitrail.export("runs/photos-1").path      # photos-1.onnx: 8-bit pixels in, logits out

    `data` are labelled images that the graph is compared on; by default those of the run. `out` is named after the run. Raises
    WeightsError for a graph that answers otherwise than the model, DoesNotApply for a model that cannot be exported.
    """
    opened = open_model(model, size)
    subject = open_subject(opened, data, say)
    return TARGETS[to](subject, Path(out) if out is not None else default_name(subject, to))


def default_name(subject: Subject, to: str) -> Path:
    """The name of the run, bundle or weights file, in the current folder."""
    if subject.model.loaded_from is None:
        raise ConfigError("a model without a file has no name", next_step="give `out`")
    path = Path(subject.model.loaded_from.removeprefix("hf:").removeprefix("timm:"))
    named = path.absolute().parent if path.name in ("best", "last") else path.absolute()
    stem = named.name.removesuffix(".safetensors").removesuffix(".npz").removesuffix(".pth")
    return Path(stem + ENDINGS.get(to, f"-{to}"))
