"""`vitrail.export`: a trained model as a file for other programs."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from vitrail.api.models import Model, Size, open_model
from vitrail.arguments import Precision, Say
from vitrail.errors import ConfigError
from vitrail.exporting.layouts import export_browser, export_ovms, export_triton
from vitrail.exporting.onnx_file import Wanted, Written, export_onnx
from vitrail.exporting.openvino_folder import export_openvino
from vitrail.exporting.reader import is_reader
from vitrail.exporting.subject import Subject, open_subject, with_merging
from vitrail.images.samples import Splits
from vitrail.prediction.artefact import DIGEST
from vitrail.registry import Registry
from vitrail.weights.trained_on import TRAINED_KEYS

Target = Literal["onnx", "openvino", "browser", "triton", "ovms"]
TARGETS = Registry[Callable[[Subject, Path, Wanted], Written]](
    "export target",
    {
        "onnx": export_onnx,
        "openvino": export_openvino,
        "browser": export_browser,
        "triton": export_triton,
        "ovms": export_ovms,
    },
)
"""Kinds of exports."""
ENDINGS = {"onnx": ".onnx"}
MADE = {
    "openvino": ("export.json", "model.xml", "model.bin", TRAINED_KEYS),
    "browser": ("onnx/model.onnx", "config.json", "preprocessor_config.json"),
    "triton": ("{name}/1/model.onnx", "{name}/config.pbtxt", "{name}/labels.txt"),
    "ovms": ("{name}/1/model.xml", "{name}/1/model.bin", f"{{name}}/1/{TRAINED_KEYS}", "config.json"),
}
"""All files of a folder that an export writes, the first in every one: a folder with another file is not replaced."""


def export(
    model: Model, data: str | Path | Splits | None = None, *, to: Target = "onnx", out: str | Path | None = None,
    size: Size = None, precision: Precision = "auto", int8: bool = False, merge: int = 0, within: float = 0.5,
    say: Say = lambda text: None,
) -> Written:  # fmt: skip
    """Writes a model for other programs, with a certificate; a wrong graph is not written.

        vitrail.export("runs/photos-1").path      # photos-1.onnx: 8-bit pixels in, logits out

    `int8` and `merge` change answers: accuracy on images that were not trained on may fall by `within` points, and the
    certificate has the 95 % interval of the loss. Raises WeightsError for a graph that answers otherwise than the model,
    DataError for a larger loss, DoesNotApply for a model that cannot be exported.

    Args:
        data: Labelled images, as for `vitrail evaluate`; by default those of the run.
        to: onnx: one file. openvino: a folder, the fastest on an x86 CPU. browser: a folder for transformers.js. triton,
            ovms: a model repository for NVIDIA Triton, for OpenVINO Model Server.
        out: The file or folder; by default it is named after the run. Only what an earlier export wrote is replaced.
        precision: Number format of an OpenVINO folder; auto is fp32.
        int8: An OpenVINO folder in 8-bit whole numbers: half of your images choose its scales, the others measure the loss.
        merge: Patches merged in each block (ToMe): fewer tokens, faster, a little less accurate.
        within: Points of accuracy that int8 and merging may cost; more, and nothing is written.
    """
    if within <= 0 or merge < 0:
        raise ConfigError(f"within = {within}, merge = {merge}", allowed="points above 0; 0 patches or more")
    if out is not None:
        check_out(Path(out), to)
    if isinstance(data, str | Path) and Path(data).suffix in ENDINGS.values():
        raise ConfigError(f"{data} stands where images are named", next_step=f"name the new file so: `out='{data}'`")
    subject = with_merging(open_subject(open_model(model, size), data, say), merge)
    wanted = Wanted(precision="bf16" if precision == "bf16" else "fp32", int8=int8, within=within)
    path = default_name(subject, to) if out is None else Path(out)
    check_out(path, to)
    return TARGETS[to](subject, path, wanted)


def check_out(out: Path, to: str) -> None:
    """ConfigError for a name that is not an ONNX file's, and where something lies that no export wrote."""
    if to in ENDINGS and out.suffix != ENDINGS[to]:
        raise ConfigError(
            f"out = {out} for {to}", allowed=f"a name that ends in {ENDINGS[to]}: the file is known by it"
        )
    strange = find_strange_file(out) if to in ENDINGS else find_strange(out, MADE.get(to, ()))
    if strange is not None:
        raise ConfigError(f"{strange} is there, and no export wrote it", next_step="choose another `out`")


def find_strange_file(out: Path) -> Path | None:
    """The file in the place of an ONNX file, or of its reader, that no export wrote; None where there is none."""
    reader = out.with_suffix(".py")
    if os.path.lexists(out) and not is_ours(out):
        return out
    return reader if os.path.lexists(reader) and not is_reader(reader) else None


def find_strange(out: Path, names: Sequence[str]) -> Path | None:
    """The first thing in a folder that is none of these files; the folder, where the first of them is not an export's."""
    there = sorted(out.rglob("*")) if out.is_dir() else []
    if not there:
        return out if os.path.lexists(out) and not out.is_dir() else None
    files = [out / name.format(name=out.stem) for name in names]
    if not files or not is_ours(files[0]):
        return out
    known = {path for file in files for path in (file, *file.parents)}
    return next((path for path in there if path not in known), None)


def is_ours(file: Path) -> bool:
    """Whether an export may have written this file; an ONNX file that it wrote ends with its sha256."""
    if file.suffix != ".onnx" or not file.is_file():
        return file.is_file()
    with file.open("rb") as content:
        content.seek(max(0, file.stat().st_size - 100))
        return DIGEST.encode() in content.read()


def default_name(subject: Subject, to: str) -> Path:
    """The name of the run, bundle or weights file, in the current folder."""
    if subject.model.loaded_from is None:
        raise ConfigError("a model without a file has no name", next_step="give `out`")
    path = Path(subject.model.loaded_from.removeprefix("hf:").removeprefix("timm:"))
    named = path.absolute().parent if path.name in ("best", "last") else path.absolute()
    stem = named.name.removesuffix(".safetensors").removesuffix(".npz").removesuffix(".pth")
    return Path(stem + ENDINGS.get(to, f"-{to}"))
