"""An exported file answers as the model does, everywhere the model is used; strangers' and damaged files are told apart."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import vitrail
from tests.exporting.conftest import CLASSES, TINY, UNEVEN, graph_of, pictures, ready, subject_of
from tests.support.zoo import FAMILIES, VITS
from vitrail.errors import ConfigError, DoesNotApply, ShapeError, StorageError, WeightsError
from vitrail.exporting.gate import CHECKS, Case, certify
from vitrail.exporting.layouts import export_browser
from vitrail.exporting.odd_files import write_odd_files
from vitrail.exporting.onnx_file import export_onnx
from vitrail.exporting.reader import is_reader, load_reader, write_reader
from vitrail.exporting.subject import require_images
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Splits
from vitrail.models.deit import DeiTConfig
from vitrail.prediction.artefact import parse_facts, seal_onnx
from vitrail.prediction.engine import TorchEngine
from vitrail.prediction.engines import open_engine
from vitrail.weights.bundle import load
from vitrail.weights.record import Record

pytestmark = pytest.mark.oracle
onnx = pytest.importorskip("onnx", reason="needs vitrail[export]")
pytest.importorskip("onnxscript", reason="needs vitrail[export]")
pytest.importorskip("onnxruntime", reason="needs vitrail[export]")

SMALL = {"width": 32, "depth": 1, "heads": 2, "mlp_width": 32, "patch": (8, 8), "image": (32, 24), "classes": 5}
EVERY_SIZE = {
    "vit cls-mean": VITS["class token and mean"],
    "vit map": VITS["map"],
    "vit sincos": VITS["sincos"],
    "vit bicubic": VITS["qk norm"],
    "deit": DeiTConfig(**SMALL),
    "resnet": FAMILIES["r50x1"],
}
ONE_SIZE = {
    "vit 2-D": VITS["2-D"],
    "vit dinov2": VITS["dinov2"],
    "vit relative": VITS["relative"],
    "hybrid": FAMILIES["r50+vit-b/16"],
    "maxvit": FAMILIES["maxvit-t"],
}
QUICK = ()
"""Only the small ViT of the other tests is made in every run; these in `make deep`, for an export takes 6 to 24 seconds."""


def cases(names) -> list:
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.deep) for name in names]


@pytest.mark.parametrize("name", cases(EVERY_SIZE))
def test_one_file_takes_every_batch_and_size(name: str, tmp_path: Path) -> None:
    config = EVERY_SIZE[name]
    model = ready(config, Preprocess(size=config.image))
    written = export_onnx(subject_of(model), tmp_path / "model.onnx")
    assert written.exported.any_size
    engine, torch_engine = open_engine(written.path), TorchEngine.of(model, precision="fp32")
    step = config.multiple
    for batch, height, width in ((1, 3 * step, 5 * step), (4, 2 * step, 2 * step), (3, *config.image)):
        images = torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8)
        torch.testing.assert_close(engine.logits(images), torch_engine.logits(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", cases(ONE_SIZE))
def test_other_families_take_every_batch_at_one_size(name: str, tmp_path: Path) -> None:
    config = ONE_SIZE[name]
    model = ready(config, Preprocess(size=config.image))
    written = export_onnx(subject_of(model), tmp_path / "model.onnx")
    engine, torch_engine = open_engine(written.path), TorchEngine.of(model, precision="fp32")
    images = torch.randint(0, 256, (5, 3, *config.image), dtype=torch.uint8)
    torch.testing.assert_close(engine.logits(images), torch_engine.logits(images), rtol=1e-3, atol=1e-4)
    with pytest.raises(ShapeError, match="the one size it was exported for"):
        engine.logits(images[:, :, : config.image[0] // 2])


def test_predict_evaluate_and_robustness_take_the_file(bundle: Path, exported: Path, tmp_path: Path) -> None:
    source = pictures(40)
    splits = Splits(source.subset(range(20)), source.subset(range(20, 40)), "by hand")
    files = write_odd_files(tmp_path / "odd")
    for views in ("one", "flip"):
        pair = [vitrail.predict(path, files, views=views, precision="fp32", top=5) for path in (bundle, exported)]
        for one, other in zip(*pair, strict=True):
            assert one.labels == other.labels and one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    scores = [vitrail.evaluate(path, splits, precision="fp32") for path in (bundle, exported)]
    assert (scores[0].predicted == scores[1].predicted).all() and scores[0].top1 == scores[1].top1
    rows = [
        vitrail.robustness(path, splits, corruptions=["contrast"], severities=[3], precision="fp32")
        for path in (bundle, exported)
    ]
    assert rows[0] == rows[1]
    assert vitrail.compare(bundle, exported, splits, precision="fp32").difference == 0


def test_bulk_prediction_takes_the_file(exported: Path, tmp_path: Path, in_folder: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    from vitrail.cli import main

    write_odd_files(in_folder / "odd")
    assert main(["predict", str(exported), "odd", "--out", "labels.parquet"]) == 0
    one_by_one = vitrail.predict(exported, "odd", quiet=True)
    assert parquet.read_table("labels.parquet")["label"].to_pylist() == [one.labels[0] for one in one_by_one]


def test_another_size_is_asked_of_the_file(bundle: Path, exported: Path, tmp_path: Path) -> None:
    files = write_odd_files(tmp_path / "odd")
    pair = [vitrail.predict(path, files, size=(64, 40), precision="fp32") for path in (bundle, exported)]
    for one, other in zip(*pair, strict=True):
        assert one.probabilities == pytest.approx(other.probabilities, abs=1e-4)
    with pytest.raises(ShapeError, match="8×8 patches"):
        open_engine(exported, size=(33, 24))


def test_images_that_were_trained_on_travel_with_the_file(exported: Path, tmp_path: Path) -> None:
    from vitrail.images.content_keys import keys_of, unique_keys

    source = pictures(40)
    keys = unique_keys(keys_of(source.subset(range(30))))
    lonely = tmp_path / "model.onnx"
    lonely.write_bytes(seal_onnx(graph_of(exported).SerializeToString(), open_engine(exported).exported, keys))
    drawn = Splits(source.subset(range(20)), source.subset(range(20, 40)), "drawn", drawn=True)
    assert vitrail.evaluate(lonely, drawn).images == 10
    assert (open_engine(lonely).trained_keys == keys).all()


def test_the_file_carries_its_record_and_certificate(exported: Path, model) -> None:
    found = onnx.load(exported)
    onnx.checker.check_model(found, full_check=True)
    text = {prop.key: prop.value for prop in found.metadata_props}["vitrail.export"]
    facts = json.loads(text)
    assert facts["record"]["classes"] == list(CLASSES) and facts["record"]["preprocess"]["mean"] == list(UNEVEN.mean)
    checks = facts["certificate"]["checks"]
    assert {"batch of 7", "real images", "files through the reader"} <= {check["what"] for check in checks}
    assert all(check["difference"] <= 1e-4 and check["agreement"] == 1 for check in checks)
    assert str(Path(vitrail.__file__).parent).encode() not in exported.read_bytes(), "a folder of this machine"


# --- the reader -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("resize", ["squash", "crop", "pad", "native"])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_reader_prepares_images_to_the_bit(resize: str, interpolation: str, exported: Path, tmp_path: Path) -> None:
    preprocess = Preprocess(
        size=(32, 24),
        resize=resize,
        interpolation=interpolation,
        crop_fraction=0.875,
        multiple=8,
        background=(9, 99, 30),
    )
    record = Record(config=TINY, preprocess=preprocess, classes=CLASSES)
    (tmp_path / "model.onnx").symlink_to(exported)
    (tmp_path / "model.py").write_text(write_reader(record, "model.onnx"), encoding="utf-8")
    read = load_reader(tmp_path / "model.py")["read"]
    for file in write_odd_files(tmp_path / "odd"):
        (sample,) = vitrail.open_images([file])
        np.testing.assert_array_equal(read(file)[0], preprocess.read(sample).numpy(), err_msg=file.name)


def test_the_reader_of_grey_images_and_of_several_labels(exported: Path, tmp_path: Path) -> None:
    grey = Preprocess(size=(32, 24), mean=(0.5,), std=(0.5,))
    record = Record(config=TINY, preprocess=grey, classes=CLASSES, threshold=0.4)
    (tmp_path / "model.onnx").symlink_to(exported)
    (tmp_path / "model.py").write_text(write_reader(record, "model.onnx"), encoding="utf-8")
    read = load_reader(tmp_path / "model.py")["read"]
    for file in write_odd_files(tmp_path / "odd"):
        (sample,) = vitrail.open_images([file])
        np.testing.assert_array_equal(read(file)[0], grey.read(sample).numpy(), err_msg=file.name)
    assert "0.4" in write_reader(record, "model.onnx")
    with pytest.raises(DoesNotApply, match="9 channels"):
        write_reader(Record(config=record.config, preprocess=Preprocess(mean=(0.5,) * 9, std=(1.0,) * 9)), "model.onnx")


@pytest.mark.parametrize("name", ['a "b"', 'end"', "a\\b", "a\\", "two\nlines", "it's"])
def test_the_reader_takes_any_file_name(name: str, exported: Path, tmp_path: Path) -> None:
    (tmp_path / f"{name}.onnx").symlink_to(exported)
    reader = tmp_path / f"{name}.py"
    reader.write_text(write_reader(Record(config=TINY, preprocess=UNEVEN, classes=CLASSES), f"{name}.onnx"))
    assert is_reader(reader) and load_reader(reader)["CLASSES"] == list(CLASSES)


def test_a_model_of_numbers_answers_with_numbers(tmp_path: Path) -> None:
    """Its reader takes no softmax; a browser would, and int8 has no top-1 to be judged by."""
    model = ready(replace(TINY, classes=1))
    model.record = replace(model.record, classes=("age",), numeric=True)
    written = export_onnx(subject_of(model), tmp_path / "age.onnx")
    answer = load_reader(tmp_path / "age.py")["answer"]
    (file, *_) = write_odd_files(tmp_path / "odd")
    (right,) = vitrail.predict(model, [file], precision="fp32", quiet=True)
    assert answer(file).tolist() == pytest.approx([right.value], abs=1e-4)
    (tmp_path / "age.py").write_text(write_reader(replace(model.record, numeric=False), "age.onnx"), encoding="utf-8")
    case = Case(open_engine(written.path), subject_of(model).reference, model.record, None, tmp_path / "age.py")
    with pytest.raises(WeightsError, match="its reader gives other probabilities"):
        certify(case, {"reader": CHECKS["reader"]})
    with pytest.raises(DoesNotApply, match="numbers, in a browser"):
        export_browser(subject_of(model), tmp_path / "page")
    numbers = replace(pictures(), classes=("age",), labels=np.zeros((24, 1), np.float32), numeric=True)
    with pytest.raises(DoesNotApply, match="judged by top-1, and these images have numbers"):
        require_images(subject_of(model, numbers), "int8")


# --- bad input --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_large_numbers_that_hardly_vary_are_exported(tmp_path: Path) -> None:
    """Years about 2000, a hundredth apart: float32 rounds them by more than 1e-4 of their deviation."""
    model = ready(replace(TINY, classes=1))
    model.record = replace(model.record, classes=("year",), numeric=True)
    model.head.weight.mul_(1e-3)
    model.head.bias.fill_(2000.0)
    made = export_onnx(subject_of(model), tmp_path / "year.onnx")
    images = torch.randint(0, 255, (4, 3, 32, 24), dtype=torch.uint8)
    assert torch.allclose(open_engine(made.path).logits(images), model(model.record.preprocess.normalise(images)))


def test_a_stranger_s_file_is_described(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info
    node = onnx.helper.make_node("Flatten", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "g", [value("x", 1, ["n", 3, 8, 8])], [value("y", 1, ["n", 192])])
    path = tmp_path / "theirs.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9), path)
    with pytest.raises(WeightsError, match=r"it reads x \(float, \?×3×8×8\) and gives y .* class names, mean, std"):
        vitrail.predict(path, "new.jpg")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "cannot be read|not an ONNX"), (b"no graph at all", "not an ONNX graph")]
)
def test_what_is_no_graph_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        open_engine(tmp_path / "bad.onnx")


def test_a_file_of_another_version_says_so(exported: Path, tmp_path: Path) -> None:
    later = '{"certificate": {"vitrail": "9.1"}, "colour": 1}'
    with pytest.raises(WeightsError, match=r"version 9\.1 of vitrail.*colour"):
        parse_facts(exported, later)


def test_a_device_that_is_not_here_is_named(exported: Path) -> None:
    with pytest.raises(ConfigError, match="ONNX Runtime cannot use the device 'tpu' here; allowed: auto, cpu"):
        open_engine(exported, device="tpu")


def test_a_graph_is_no_weights(exported: Path, bundle: Path) -> None:
    with pytest.raises(WeightsError, match="vitrail predict"):
        load(exported)
    with pytest.raises(ConfigError, match="engine 'onnxruntime'"):
        vitrail.predict(bundle, "new.jpg", engine="onnxruntime")
    with pytest.raises(ConfigError, match="torch does not run it"):
        open_engine(exported, engine="torch")
    with pytest.raises(ConfigError, match="bf16"):
        open_engine(exported, precision="bf16")


def test_a_model_without_a_head_is_not_exported(tmp_path: Path) -> None:
    headless = ready(vitrail.ViTConfig(**{**SMALL, "classes": 0}))
    with pytest.raises(DoesNotApply, match="no head"):
        vitrail.export(headless, out=tmp_path / "model.onnx")


def test_a_file_is_named_as_it_is_known(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"a name that ends in \.onnx"):
        vitrail.export(bundle, out=tmp_path / "model")


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_disk_that_refuses_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="could not be written"):
        vitrail.export(bundle, out=tmp_path / "model.onnx")
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


def test_the_extra_is_named(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitrail\[export\]'"):
        vitrail.export(bundle, out=tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
