"""A folder for OpenVINO, made from the certified ONNX graph: float32, bfloat16, or int8 by NNCF with accuracy control.

OpenVINO's own converter of torch modules is not used: it traces, and is silently wrong at every size but the traced one.
"""

import shutil
from dataclasses import replace
from pathlib import Path

from vitrail.errors import ConfigError
from vitrail.exporting.gate import Case, certify
from vitrail.exporting.onnx_file import (
    PLAIN,
    Wanted,
    Written,
    blank,
    check_sizes,
    make_onnx,
    scratch_folder,
    with_accuracy,
)
from vitrail.exporting.quantise import LEAST, quantise
from vitrail.exporting.subject import Subject, measure_agreement, require_images
from vitrail.images.content_keys import write_keys
from vitrail.prediction.artefact import FOLDER_FACTS, GRAPH, Exported, describe_folder
from vitrail.prediction.openvino_engine import NAMES, OpenVinoEngine, open_openvino, openvino
from vitrail.storage import whole_folder
from vitrail.weights.trained_on import TRAINED_KEYS


def export_openvino(subject: Subject, out: Path, wanted: Wanted = PLAIN) -> Written:
    """Writes the folder `out`: model.xml, model.bin, export.json. Raises WeightsError or DataError, and then writes nothing."""
    openvino()
    check_sizes(subject, any_size=False)
    if wanted.int8:
        require_images(subject, "int8", LEAST)
    with scratch_folder(out) as aside:
        onnx = make_onnx(subject, aside / "model.onnx", replace(wanted, judged=False))
        made = make_folder(subject, onnx, aside / "openvino", wanted)
        with whole_folder(out) as new:
            shutil.copytree(made, new, dirs_exist_ok=True)
    return Written(out, open_openvino(out).exported)


def make_folder(subject: Subject, onnx: Path, folder: Path, wanted: Wanted) -> Path:
    """A certified folder, aside. Its graph takes every batch, and images of one size.

    With an open size OpenVINO answers images that the patch does not divide, where ONNX Runtime refuses them.
    """
    graph = openvino().Core().read_model(onnx)
    graph.reshape([-1, subject.record.preprocess.channels, *subject.record.preprocess.size])
    if wanted.int8:
        graph = quantise(graph, subject, wanted.within)
    folder.mkdir()
    openvino().save_model(graph, folder / GRAPH, compress_to_fp16=False)
    if subject.keys is not None:
        write_keys(folder / TRAINED_KEYS, subject.keys)
    exported = Exported(
        record=subject.record,
        certificate=blank("openvino"),
        precision="int8" if wanted.int8 else NAMES[wanted.precision],
        merge=subject.merge,
    )
    return seal_folder(subject, folder, exported, wanted)


def seal_folder(subject: Subject, folder: Path, draft: Exported, wanted: Wanted) -> Path:
    """Certifies the graph in the folder, and writes what was found next to it."""

    def write(exported: Exported) -> OpenVinoEngine:
        (folder / FOLDER_FACTS).write_text(describe_folder(folder, exported), encoding="utf-8")
        return open_openvino(folder)

    engine = write(draft)
    if draft.precision == "bfloat16" and engine.precision != "bfloat16":
        raise ConfigError("this CPU has no bfloat16, so it cannot be certified here", allowed="precision='fp32'")
    real = None if draft.precision == "bfloat16" else subject.pixels()  # bfloat16 is measured on more images below
    case = Case(engine, subject.reference, subject.record, real)
    certificate = replace(draft.certificate, checks=certify(case))
    if draft.precision == "bfloat16" and subject.source is not None:
        compared, few = measure_agreement(case, wanted.part(subject.source))
        certificate = replace(certificate, checks=(*certificate.checks, compared), not_shown=few)
    if wanted.int8 or subject.merge:
        certificate = with_accuracy(certificate, subject, engine, wanted)
    write(replace(draft, certificate=certificate))
    return folder
