"""One ONNX file with its reader: written aside, certified, renamed."""

import contextlib
import tempfile
from collections.abc import Generator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from vitrail.errors import ConfigError, DoesNotApply
from vitrail.exporting.gate import Case, certify
from vitrail.exporting.graph import to_onnx
from vitrail.exporting.reader import write_reader
from vitrail.exporting.subject import Subject
from vitrail.machine import describe
from vitrail.prediction.artefact import Accuracy, Certificate, Exported, seal_onnx
from vitrail.prediction.onnx_engine import open_onnx
from vitrail.storage import storage_errors, write_whole


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


def export_onnx(subject: Subject, out: Path) -> Written:
    """Writes `out` and a reader of the same name. Raises WeightsError for a graph that is wrong; then nothing is written."""
    with scratch_folder(out) as aside:
        file = make_onnx(subject, aside / out.name)
        reader = file.with_suffix(".py")
        write_whole(out, file.read_bytes())
        also = (out.with_suffix(".py"),) if reader.is_file() else ()
        for path in also:
            write_whole(path, reader.read_bytes())
    return Written(out, open_onnx(out).exported, also)


def make_onnx(subject: Subject, file: Path, *, floats: bool = False, accuracy: Accuracy | None = None) -> Path:
    """A certified ONNX file in a folder aside, with its reader. Raises WeightsError for a graph that is wrong."""
    check_sizes(subject)
    graph = to_onnx(subject.model, subject.record.preprocess, any_size=subject.any_size, floats=floats)
    draft = Exported(record=subject.record, certificate=blank(), any_size=subject.any_size, floats=floats)
    file.write_bytes(seal_onnx(graph, draft, subject.keys))
    reader = None if floats else write_beside(subject, file)
    case = Case(open_onnx(file, device="cpu"), subject.reference, subject.record, subject.pixels(), reader)
    certificate = replace(draft.certificate, checks=certify(case), accuracy=accuracy)
    file.write_bytes(seal_onnx(graph, replace(draft, certificate=certificate), subject.keys))
    open_onnx(file, device="cpu")  # whole, as it will be read
    return file


def check_sizes(subject: Subject) -> None:
    """DoesNotApply where images come at several shapes, and the graph would have one."""
    if subject.record.preprocess.resize == "native" and not subject.any_size:
        raise DoesNotApply(
            f"images at their native aspect for a {subject.model.config.family} whose exported graph has one size",
            next_step="load it with a preprocessing that squashes, crops or pads",
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
    if out.is_dir() and out.suffix:
        raise ConfigError(f"{out} is a folder", next_step="choose another `out`")
    with storage_errors(out):
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{out.stem}.", dir=out.absolute().parent)
    with folder as aside:
        yield Path(aside)
