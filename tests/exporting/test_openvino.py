"""OpenVINO folders: the same answers in float32, a measured loss in int8, no connection to anybody."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vitrail
from tests.exporting.conftest import CLASSES, pictures, subject_of
from vitrail import hardware
from vitrail.api.export import check_out
from vitrail.errors import ConfigError, DataError, ShapeError, WeightsError
from vitrail.exporting import layouts, openvino_folder
from vitrail.exporting.odd_files import write_odd_files
from vitrail.exporting.onnx_file import Wanted
from vitrail.exporting.openvino_folder import export_openvino
from vitrail.exporting.quantise import quantise
from vitrail.exporting.subject import judge
from vitrail.images.samples import Source
from vitrail.prediction.artefact import Accuracy
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.engines import open_engine

pytestmark = pytest.mark.oracle
pytest.importorskip("onnxscript", reason="needs vitrail[export]")
pytest.importorskip("openvino_telemetry", reason="needs vitrail[openvino]")
HAS_BF16 = hardware.precision("auto", torch.device("cpu")) == torch.bfloat16


@pytest.fixture(autouse=True)
def _made_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ONNX graph of the small model is made once for all tests."""

    def copied(subject, file: Path, *given, **more) -> Path:
        return Path(shutil.copy(exported, file))

    for module in (openvino_folder, layouts):
        monkeypatch.setattr(module, "make_onnx", copied)


def logits_of(model, source: Source) -> torch.Tensor:
    engine = TorchEngine.of(model, precision="fp32")
    return engine.logits(torch.stack([engine.preprocess.read(source[k]) for k in range(len(source))]))


def answered(model, source: Source) -> Source:
    """The images with the model's own answers as labels: it is always right."""
    return replace(source, labels=logits_of(model, source).argmax(1).numpy())


def decided(model, source: Source, number: int) -> Source:
    """The images whose answer is farthest from the second, so that rounding to bfloat16 does not change it."""
    best = logits_of(model, source).topk(2).values
    return source.subset((best[:, 0] - best[:, 1]).topk(number).indices.numpy())


@pytest.fixture(scope="module")
def folder(model, exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(openvino_folder, "make_onnx", lambda subject, file, *more: Path(shutil.copy(exported, file)))
        return export_openvino(subject_of(model, pictures()), tmp_path_factory.mktemp("ov") / "small-openvino").path


def test_a_folder_takes_every_batch_and_one_size(model, folder: Path, tmp_path: Path) -> None:
    engine, right = open_engine(folder), TorchEngine.of(model, precision="fp32")
    assert (engine.name, engine.precision) == ("openvino on cpu", "float32")
    for batch in (1, 4, 3):
        images = torch.randint(0, 256, (batch, 3, 32, 24), dtype=torch.uint8)
        torch.testing.assert_close(engine.logits(images), right.logits(images), rtol=1e-3, atol=1e-3)
    with pytest.raises(ShapeError, match="the one size it was exported for"):
        engine.logits(images.transpose(2, 3))
    check_out(folder, "openvino")  # it may be written again
    files = write_odd_files(tmp_path / "odd")[:3]
    both = [vitrail.predict(path, files, quiet=True) for path in (folder, folder / "model.xml")]
    assert both[0] == both[1]


def test_openvino_answers_from_the_onnx_file_too(model, exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It says that the certificate is of another runtime."""
    engine, right = open_engine(exported, engine="openvino"), TorchEngine.of(model, precision="fp32")
    assert "its certificate is of onnxruntime" in caplog.text
    images = torch.randint(0, 256, (2, 3, 32, 24), dtype=torch.uint8)
    torch.testing.assert_close(engine.logits(images), right.logits(images), rtol=1e-3, atol=1e-3)


def test_a_changed_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    for name in ("model.bin", "model.xml", "export.json"):
        copied = tmp_path / f"changed-{name.partition('.')[2]}"
        shutil.copytree(folder, copied)
        content = (copied / name).read_bytes()
        (copied / name).write_bytes(content.replace(b"bee", b"ant") if name == "export.json" else content + b" ")
        with pytest.raises(WeightsError, match=r"is damaged|was changed"):
            open_engine(copied)
    (tmp_path / "changed-bin" / "export.json").unlink()
    with pytest.raises(WeightsError, match="was not written by"):
        open_engine(tmp_path / "changed-bin" / "model.xml")


@pytest.mark.skipif(not HAS_BF16, reason="needs a CPU with bfloat16 products")
def test_bfloat16_is_named_and_measured(model, tmp_path: Path) -> None:
    certain = decided(model, pictures(96), 24)
    written = export_openvino(subject_of(model, certain), tmp_path / "small", Wanted(precision="bf16"))
    assert written.exported.precision == open_engine(written.path).precision == "bfloat16"
    assert "24 images are too few" in written.certificate.not_shown[0]
    assert open_engine(written.path, precision="fp32").precision == "float32"


def test_int8_has_its_loss_measured_on_images_that_did_not_choose_it(model, tmp_path: Path) -> None:
    source = answered(model, pictures(64))
    written = export_openvino(subject_of(model, source), tmp_path / "small", Wanted(int8=True, within=20.0))
    accuracy = written.certificate.accuracy
    assert accuracy is not None and accuracy.images == 32 and accuracy.before == 1
    assert accuracy.interval[0] <= accuracy.drop <= accuracy.interval[1] and accuracy.drop <= 20
    engine = open_engine(written.path)
    assert engine.precision == "int8" and not engine.exported.any_size
    assert "FakeQuantize" in (written.path / "model.xml").read_text()
    scores = vitrail.evaluate(
        written.path, vitrail.Splits(source.subset([]), source.subset(np.arange(1, 64, 2)), "odd")
    )
    assert scores.top1 == accuracy.after


def test_int8_takes_a_patch_weight_of_any_size(model) -> None:
    """The ONNX exporter leaves a weight of more than 10,000 numbers behind a Reshape."""
    from openvino import Model, opset13

    weight = opset13.constant(np.random.default_rng(0).normal(size=(len(CLASSES), 3, 32, 24)).astype(np.float32))
    flat = opset13.reshape(weight, opset13.constant([len(CLASSES), -1]), False)
    images = opset13.parameter([-1, 3, 32, 24], np.uint8)
    pixels = opset13.reshape(opset13.convert(images, np.float32), opset13.constant([-1, 3 * 32 * 24]), False)
    graph = Model([opset13.matmul(pixels, flat, False, True)], [images], "patches")
    small = quantise(graph, subject_of(model, pictures(32)), 0.0, control=False)
    assert "FakeQuantize" in {node.get_type_name() for node in small.get_ops()}


def test_int8_without_images_is_refused(model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no images to measure the loss on.*as the second argument"):
        export_openvino(subject_of(model), tmp_path / "small", Wanted(int8=True))
    assert not list(tmp_path.iterdir())


def test_a_loss_is_passed_not_shown_or_refused() -> None:
    def accuracy(drop: float, low: float, high: float) -> Accuracy:
        facts = {"data": "photos", "images": 100, "before": 0.9, "after": 0.9 - drop / 100, "drop": drop, "within": 0.5}
        return Accuracy(interval=(low, high), **facts)

    assert judge(accuracy(0.1, -0.2, 0.4)) == ()
    assert "leave -2.00 to +2.20" in judge(accuracy(0.1, -2.0, 2.2))[0]
    with pytest.raises(DataError, match=r"falls by 1.00 points on 100 images, of 0.5 allowed"):
        judge(accuracy(1.0, 0.4, 1.6))


def test_the_folders_of_servers_answer(model, tmp_path: Path) -> None:
    import openvino

    subject = subject_of(model, pictures())
    right = TorchEngine.of(model, precision="fp32")
    images = torch.randint(0, 256, (2, 3, 32, 24), dtype=torch.uint8)
    served = layouts.export_ovms(subject, tmp_path / "ovms").path
    runs = openvino.Core().compile_model(served / "ovms/1/model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = torch.from_numpy(runs([images.permute(0, 2, 3, 1).numpy()])[0])
    torch.testing.assert_close(found, right.logits(images), rtol=1e-3, atol=1e-3)
    check_out(served, "ovms")
    triton = layouts.export_triton(subject, tmp_path / "triton").path
    check_out(triton, "triton")
    text = (triton / "triton/config.pbtxt").read_text()
    assert "dims: [ 3, -1, -1 ]" in text and "dynamic_batching" in text
    found = open_engine(triton / "triton/1/model.onnx").logits(images)
    torch.testing.assert_close(found, right.logits(images), rtol=1e-3, atol=1e-3)
    assert (triton / "triton/labels.txt").read_text().split() == list(model.record.classes)


def test_a_class_name_is_one_line_of_labels(model, tmp_path: Path) -> None:
    named = replace(model.record, classes=("ant", "bee\nof honey", "cat", "dog", "eel"))
    folder = layouts.export_triton(replace(subject_of(model), record=named), tmp_path / "triton").path
    assert (folder / "triton/labels.txt").read_text().split("\n") == ["ant", "bee of honey", "cat", "dog", "eel", ""]


def test_triton_s_own_schema_reads_its_config(model, tmp_path: Path) -> None:
    """NVIDIA's protobuf, strict: an unknown field is an error. Its inputs and outputs are those of the graph beside it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    text_format = pytest.importorskip("google.protobuf.text_format", reason="needs protobuf")
    runtime = pytest.importorskip("onnxruntime", reason="needs vitrail[export]")
    folder = layouts.export_triton(subject_of(model, pictures()), tmp_path / 'a "quoted" name').path
    check_out(folder, "triton")
    (place,) = folder.iterdir()
    config = text_format.Parse((place / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())
    assert config.name == place.name and config.max_batch_size > 1 and config.HasField("dynamic_batching")
    session = runtime.InferenceSession(str(place / "1/model.onnx"))
    for told, real, kind in (
        (config.input, session.get_inputs(), (schema.TYPE_UINT8, "tensor(uint8)")),
        (config.output, session.get_outputs(), (schema.TYPE_FP32, "tensor(float)")),
    ):
        (one,), (value,) = told, real
        assert (one.name, one.data_type, value.type) == (value.name, *kind)
        assert list(one.dims) == [side if isinstance(side, int) else -1 for side in value.shape[1:]]
        assert not isinstance(value.shape[0], int), "the batch is Triton's"
    assert (place / config.output[0].label_filename).is_file()


_TRAP = """
import os, socket, sys
opened = []
def refuse(self, address, *more):
    opened.append(address)
    raise OSError("no connection")
socket.socket.connect = socket.socket.connect_ex = refuse
socket.getaddrinfo = lambda *given, **more: refuse(None, given)
os.environ.pop("CI", None)
from vitrail.exporting.quantise import nncf
from vitrail.prediction.openvino_engine import openvino
from vitrail.prediction.onnx_engine import onnxruntime
import time
library, runtime, _ = nncf(), openvino(), onnxruntime()
runtime.convert_model
time.sleep(1)
print(opened, sys.modules.get("openvino_telemetry"))
"""


def test_no_runtime_opens_a_connection(tmp_path: Path) -> None:
    """Sockets and name resolution are trapped, outside a test runner: nncf is silent inside of one."""
    import os

    environment = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _TRAP], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.strip() == "[] None"
    assert not list(tmp_path.rglob("*telemetry*")), "no identifier is kept for it"
