"""The certified ONNX graph in the folders that others read: a browser's, NVIDIA Triton's, OpenVINO Model Server's."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from vitrail.errors import DoesNotApply
from vitrail.exporting.onnx_file import PLAIN, Wanted, Written, check_float32, make_onnx, scratch_folder
from vitrail.exporting.openvino_folder import make_folder
from vitrail.exporting.subject import Subject
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.artefact import GRAPH
from vitrail.prediction.onnx_engine import open_onnx
from vitrail.prediction.openvino_engine import open_openvino, openvino
from vitrail.storage import whole_folder
from vitrail.weights.record import Record

RESAMPLE = {"nearest": 0, "bilinear": 2, "bicubic": 3}
"""Pillow's numbers of filters, which `preprocessor_config.json` has."""


def export_browser(subject: Subject, out: Path, wanted: Wanted = PLAIN) -> Written:
    """A folder in Hugging Face's layout, as transformers.js reads it: float images in, `pixel_values` and `logits`."""
    check_float32(wanted)
    check_browser(subject.record)
    with scratch_folder(out) as aside, whole_folder(out) as new:
        file = make_onnx(subject, aside / "model.onnx", wanted, floats=True)
        (new / "onnx").mkdir()
        shutil.copy(file, new / "onnx/model.onnx")
        write_json(new / "config.json", describe_classes(subject))
        write_json(new / "preprocessor_config.json", describe_preprocess(subject.record.preprocess))
        return Written(out, open_onnx(file).exported)


def export_triton(subject: Subject, out: Path, wanted: Wanted = PLAIN) -> Written:
    """A model repository for NVIDIA Triton: NAME/1/model.onnx and NAME/config.pbtxt, with dynamic batching."""
    check_float32(wanted)
    with scratch_folder(out) as aside, whole_folder(out) as new:
        file = make_onnx(subject, aside / "model.onnx", wanted)
        (new / out.stem / "1").mkdir(parents=True)
        shutil.copy(file, new / out.stem / "1/model.onnx")
        (new / out.stem / "config.pbtxt").write_text(describe_triton(subject, out.stem), encoding="utf-8")
        labels = "".join(f"{' '.join(name.splitlines())}\n" for name in subject.record.classes)  # a line is a class
        (new / out.stem / "labels.txt").write_text(labels, encoding="utf-8")
        return Written(out, open_onnx(file).exported)


def export_ovms(subject: Subject, out: Path, wanted: Wanted = PLAIN) -> Written:
    """A model repository for OpenVINO Model Server: NAME/1/model.xml, which reads 8-bit images with channels last."""
    with scratch_folder(out) as aside, whole_folder(out) as new:
        onnx = make_onnx(subject, aside / "model.onnx", replace(wanted, judged=False))
        folder = make_folder(subject, onnx, aside / "openvino", wanted)
        place = new / out.stem / "1"
        shutil.copytree(folder, place)
        graph = with_channels_last(openvino().Core().read_model(folder / GRAPH))
        openvino().save_model(graph, place / GRAPH, compress_to_fp16=False)
        (place / "export.json").unlink()  # its sha256 are those of the graph with channels first
        write_json(
            new / "config.json",
            {"model_config_list": [{"config": {"name": out.stem, "base_path": f"/models/{out.stem}"}}]},
        )
        return Written(out, open_openvino(folder).exported)


def write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def with_channels_last(graph: Any) -> Any:
    """The same graph for images B H W C, as the server decodes them."""
    from openvino.preprocess import PrePostProcessor  # pyrefly: ignore[missing-import]

    steps = PrePostProcessor(graph)
    steps.input().tensor().set_layout(openvino().Layout("NHWC"))
    steps.input().model().set_layout(openvino().Layout("NCHW"))
    return steps.build()


def check_browser(record: Record) -> None:
    """DoesNotApply for preparing that Hugging Face's processor does not know, and for answers that its softmax spoils."""
    preprocess = record.preprocess
    if record.numeric or record.threshold is not None:
        kind = "numbers" if record.numeric else "several labels an image"
        raise DoesNotApply(
            f"{kind}, in a browser: transformers.js takes a softmax of every answer", allowed="one class an image"
        )
    if preprocess.resize not in ("squash", "crop") or preprocess.channels != 3:
        raise DoesNotApply(
            f"images that are prepared by {preprocess.resize!r} with {preprocess.channels} channels, in a browser",
            allowed="squash or crop, and 3 channels",
        )
    if preprocess.resize == "crop" and preprocess.size[0] != preprocess.size[1]:
        raise DoesNotApply(
            f"a crop of {preprocess.size[0]}×{preprocess.size[1]}, in a browser: transformers.js may fill it up with black",
            allowed="crop to a square, or squash",
        )


def describe_preprocess(preprocess: Preprocess) -> dict[str, Any]:
    """`preprocessor_config.json` of a ViTImageProcessor, or of one that cuts the centre out."""
    height, width = preprocess.size
    found: dict[str, Any] = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": RESAMPLE[preprocess.interpolation],
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
    if preprocess.resize == "crop":
        short = int(height / preprocess.crop_fraction + 1e-6)  # as Preprocess has it; it is a square
        cut = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        found |= {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": short}, **cut}
    return found


def describe_classes(subject: Subject) -> dict[str, Any]:
    """`config.json`: the task, and the names of the classes by number."""
    record: Record = subject.record
    names = record.classes or tuple(f"class {k}" for k in range(record.config.classes))
    return {
        "model_type": "vit",
        "architectures": ["ViTForImageClassification"],
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        "image_size": max(record.preprocess.size),
        "num_channels": record.preprocess.channels,
        "license": record.licence,
    }


def describe_triton(subject: Subject, name: str) -> str:
    """`config.pbtxt`. Dimensions that are open are -1; the batch is not among them."""
    record = subject.record
    height, width = (-1, -1) if subject.any_size else record.preprocess.size
    return f"""\
name: {json.dumps(name, ensure_ascii=False)}
platform: "onnxruntime_onnx"
max_batch_size: 64
input [ {{ name: "images" data_type: TYPE_UINT8 dims: [ {record.preprocess.channels}, {height}, {width} ] }} ]
output [ {{ name: "logits" data_type: TYPE_FP32 dims: [ {record.config.classes} ] label_filename: "labels.txt" }} ]
dynamic_batching {{ max_queue_delay_microseconds: 1000 }}
"""
