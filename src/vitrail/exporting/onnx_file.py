"""One ONNX file with its reader: written aside, certified, renamed."""

import contextlib
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from vitrail.errors import ConfigError, DoesNotApply
from vitrail.exporting.gate import Case, certify
from vitrail.exporting.graph import to_onnx
from vitrail.exporting.reader import write_reader
from vitrail.exporting.subject import MANY, Subject, judge, measure_drop, require_images
from vitrail.images.samples import Source
from vitrail.machine import describe
from vitrail.prediction.artefact import Certificate, Exported, seal_onnx
from vitrail.prediction.engine import Engine
from vitrail.prediction.onnx_engine import open_onnx
from vitrail.storage import storage_errors, write_whole


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How the numbers of an export may differ from the model's."""

    precision: str = "fp32"
    """"fp32" or "bf16"."""
    int8: bool = False
    within: float = 0.5
    """Points of accuracy that int8 or merged tokens may cost."""
    judged: bool = True
    """Whether accuracy is measured here; a graph that is changed further is measured later."""

    def part(self, source: Source) -> Source:
        """The images that accuracy is certified on: at most MANY; every second one where the others chose the int8 graph."""
        rows = np.arange(1, len(source), 2) if self.int8 else np.arange(len(source))
        return source.subset(rows).thin(MANY)


PLAIN = Wanted()


@dataclass(frozen=True, eq=False)
class Written:
    """An export that passed the gate."""

    path: Path
    exported: Exported
    also: tuple[Path, ...] = ()
    """Files next to it."""

    @property
    def certificate(self) -> Certificate:
        return self.exported.certificate


def export_onnx(subject: Subject, out: Path, wanted: Wanted = PLAIN) -> Written:
    """Writes `out` and a reader of the same name. Raises WeightsError for a graph that is wrong; then nothing is written."""
    check_float32(wanted)
    with scratch_folder(out) as aside:
        file = make_onnx(subject, aside / out.name, wanted)
        reader = file.with_suffix(".py")
        write_whole(out, file.read_bytes())
        also = (out.with_suffix(".py"),) if reader.is_file() else ()
        for path in also:
            write_whole(path, reader.read_bytes())
    return Written(out, open_onnx(out).exported, also)


def check_float32(wanted: Wanted) -> None:
    """ConfigError for other numbers than float32, which ONNX graphs here do not have."""
    if wanted.int8 or wanted.precision == "bf16":
        raise ConfigError("int8 or bf16 in an ONNX graph", allowed="fp32", next_step="try `to='openvino'`")


def make_onnx(subject: Subject, file: Path, wanted: Wanted = PLAIN, *, floats: bool = False) -> Path:
    """A certified ONNX file in a folder aside, with its reader. Raises WeightsError for a graph that is wrong."""
    check_sizes(subject, subject.any_size)
    graph = to_onnx(subject.exported, subject.record.preprocess, any_size=subject.any_size, floats=floats)
    draft = Exported(
        record=subject.record, certificate=blank(), any_size=subject.any_size, floats=floats, merge=subject.merge
    )
    file.write_bytes(seal_onnx(graph, draft, subject.keys))
    reader = None if floats else write_beside(subject, file)
    case = Case(open_onnx(file, device="cpu"), subject.reference, subject.record, subject.pixels(), reader)
    certificate = replace(draft.certificate, checks=certify(case))
    if subject.merge and wanted.judged:
        certificate = with_accuracy(certificate, subject, case.candidate, wanted)
    file.write_bytes(seal_onnx(graph, replace(draft, certificate=certificate), subject.keys))
    open_onnx(file, device="cpu")  # whole, as it will be read
    return file


def with_accuracy(certificate: Certificate, subject: Subject, engine: Engine, wanted: Wanted) -> Certificate:
    """The certificate with accuracy before and after. Raises DataError for a loss beyond the bound, ConfigError without images."""
    source = require_images(subject, "int8" if wanted.int8 else "merging tokens")
    accuracy = measure_drop(subject.original, engine, wanted.part(source), subject.data, within=wanted.within)
    return replace(certificate, accuracy=accuracy, not_shown=judge(accuracy))


def check_sizes(subject: Subject, any_size: bool) -> None:
    """DoesNotApply where images come at several shapes, and the graph would have one."""
    if subject.record.preprocess.resize == "native" and not any_size:
        raise DoesNotApply(
            "images at their native aspect, and a graph of one size",
            next_step="export a ViT to ONNX, or load the model with a preprocessing that squashes, crops or pads",
        )


def write_beside(subject: Subject, file: Path) -> Path | None:
    """The generated reader, next to the file; None where Pillow cannot prepare such images."""
    try:
        text = write_reader(subject.record, file.name)
    except DoesNotApply:
        return None
    path = file.with_suffix(".py")
    path.write_text(text, encoding="utf-8")
    return path


def blank(engine: str = "onnxruntime") -> Certificate:
    """A certificate on which nothing stands yet."""
    return Certificate(engine=f"{engine} {version(engine)}", machine=str(describe()["cpu"]), vitrail=version("vitrail"))


@contextlib.contextmanager
def scratch_folder(out: Path) -> Generator[Path]:
    """A hidden folder on the disk of `out`, that is gone at the end. Raises StorageError for a disk that refuses."""
    with storage_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.absolute().parent)
    with folder as aside:
        yield Path(aside)
