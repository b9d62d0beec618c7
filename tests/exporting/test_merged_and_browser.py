"""Merged tokens in an exported graph; and a browser's folder, read as transformers.js reads it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.exporting.conftest import pictures, subject_of
from tests.exporting.test_openvino import answered
from tests.support.zoo import FAMILIES
from vitrail.api.export import check_out
from vitrail.errors import ConfigError, DoesNotApply
from vitrail.exporting.layouts import check_browser, describe_preprocess, export_browser
from vitrail.exporting.odd_files import write_odd_files
from vitrail.exporting.onnx_file import Wanted, export_onnx
from vitrail.exporting.subject import with_merging
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.engines import open_engine
from vitrail.prediction.predict import predict

pytestmark = pytest.mark.oracle
runtime = pytest.importorskip("onnxruntime", reason="needs vitrail[export]")
pytest.importorskip("onnxscript", reason="needs vitrail[export]")


def test_merged_tokens_are_exported_with_their_loss(model, tmp_path: Path) -> None:
    subject = with_merging(subject_of(model, answered(model, pictures(48))), 2)
    written = export_onnx(subject, tmp_path / "merged.onnx", Wanted(within=40.0))
    engine = open_engine(written.path)
    assert engine.exported.merge == 2 and not engine.exported.any_size
    assert written.certificate.accuracy is not None and written.certificate.accuracy.images == 48
    images = subject.pixels()
    torch.testing.assert_close(engine.logits(images), subject.reference.logits(images), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(subject.reference.logits(images), subject.original.logits(images))
    with pytest.raises(ConfigError, match="no images to measure the loss on"):
        export_onnx(with_merging(subject_of(model), 2), tmp_path / "other.onnx")


def test_a_resnet_has_no_tokens_to_merge() -> None:
    model = zoo.build(FAMILIES["r50x1"])
    model.record = type("Record", (), {"preprocess": Preprocess(size=(64, 64))})()
    with pytest.raises(DoesNotApply, match="no tokens that merge"):
        with_merging(subject_of(model), 2)


def test_a_browser_s_folder_is_all_that_transformers_js_needs(model, tmp_path: Path) -> None:
    """Pillow resizes here, so pixels may differ by a level or two from torch's."""
    subject = subject_of(model, pictures())
    folder = export_browser(subject, tmp_path / "page").path
    config, prepare = (json.loads((folder / name).read_text()) for name in ("config.json", "preprocessor_config.json"))
    session = runtime.InferenceSession(str(folder / "onnx/model.onnx"))
    assert [value.name for value in (*session.get_inputs(), *session.get_outputs())] == ["pixel_values", "logits"]
    files = [file for file in write_odd_files(tmp_path / "odd") if file.suffix == ".png" and "16" not in file.name]
    files = [file for file in files if "transparent" not in file.name]
    for file, right in zip(files, predict(TorchEngine.of(model, precision="fp32"), files, quiet=True), strict=True):
        size = prepare["size"]["width"], prepare["size"]["height"]
        image = Image.open(file).convert("RGB").resize(size, prepare["resample"])
        x = np.asarray(image, np.float32).transpose(2, 0, 1)[None] * np.float32(prepare["rescale_factor"])
        mean, std = (np.array(prepare[name], np.float32)[:, None, None] for name in ("image_mean", "image_std"))
        logits = torch.from_numpy(session.run(None, {"pixel_values": (x - mean) / std})[0][0])
        assert config["id2label"][str(int(logits.argmax()))] == right.labels[0]
        assert float(logits.softmax(0).max()) == pytest.approx(right.probabilities[0], abs=0.02)
    check_out(folder, "browser")  # it may be written again
    with pytest.raises(DoesNotApply, match="in a browser"):
        export_browser(subject_of_padded(model), tmp_path / "other")


def test_a_browser_crops_as_the_model_does(model) -> None:
    crop = Preprocess(size=(224, 224), resize="crop", crop_fraction=0.9)
    assert describe_preprocess(crop)["size"] == {"shortest_edge": crop._covering(500, 400)[1]} == {"shortest_edge": 248}
    oblong = replace(model.record, preprocess=replace(model.record.preprocess, resize="crop"))
    with pytest.raises(DoesNotApply, match="a crop of 32×24, in a browser"):
        check_browser(oblong)


def subject_of_padded(model):
    found = subject_of(model)
    padded = replace(found.record, preprocess=replace(found.record.preprocess, resize="pad"))
    return replace(found, record=padded)
