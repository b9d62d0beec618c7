"""The two commands as a person types them; the graph is made once for all tests."""

import json
import shlex
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import vitrail
from tests.exporting.conftest import CLASSES, graph_of, pictures
from vitrail.api.export import MADE, check_out
from vitrail.cli import main
from vitrail.cli.tune import fill
from vitrail.errors import ConfigError
from vitrail.exporting import onnx_file, tune
from vitrail.exporting.tune import Trial, choose
from vitrail.prediction.artefact import Accuracy

pytestmark = pytest.mark.flow
pytest.importorskip("onnxscript", reason="needs vitrail[export]")
pytest.importorskip("onnxruntime", reason="needs vitrail[export]")


@pytest.fixture(autouse=True)
def _made_once(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = graph_of(exported).SerializeToString()
    for module in (onnx_file, tune):
        monkeypatch.setattr(module, "to_onnx", lambda *given, **more: content)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    source = pictures(20)
    for index in range(len(source)):
        file = tmp_path / "photos" / CLASSES[int(source.labels[index])] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source.pixels(index)).save(file)
    return tmp_path / "photos"


def test_export_then_predict(bundle: Path, photos: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(bundle), str(photos), "--json"]) == 0
    said = capsys.readouterr()
    certificate = json.loads(said.out)
    assert certificate["path"] == "small.onnx" and certificate["engine"].startswith("onnxruntime")
    assert "20 images (all of" in said.err and "next: vitrail predict small.onnx new.jpg" in said.err
    assert sorted(path.name for path in in_folder.iterdir() if path.is_file()) == ["small.onnx", "small.py"]
    assert main(["evaluate", "small.onnx", str(photos), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 20


def test_wrong_words_are_told(bundle: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, sentence in (
        (["--int8"], "try `to='openvino'`"),
        (["--to", "triton", "--int8"], "try `to='openvino'`"),
        (["--to", "browser", "--precision", "bf16"], "try `to='openvino'`"),
        (["--merge", "-1"], "0 patches or more"),
        (["--to", "openvino", "--int8"], "no images to measure the loss on"),
        (["--out", "model"], "a name that ends in .onnx"),
    ):
        assert main(["export", str(bundle), *words]) == 78
        assert sentence.replace("`to='openvino'`", "--to openvino") in capsys.readouterr().err
    assert not list(in_folder.iterdir())


@pytest.mark.parametrize("to", ["openvino", "browser", "triton", "ovms", "onnx"])
def test_only_an_earlier_export_is_replaced(to: str, photos: Path) -> None:
    """The name of a folder of photographs, typed twice, must not cost the photographs."""
    out = photos.rename(photos.with_suffix(".onnx")) if to == "onnx" else photos
    before = sorted(out.rglob("*"))
    with pytest.raises(ConfigError, match="is there, and no export wrote it"):
        vitrail.export("nothing", out, to=to, out=out)
    assert sorted(out.rglob("*")) == before


def test_a_name_for_the_export_in_the_place_of_images_is_explained(in_folder: Path, capsys) -> None:
    assert main(["export", "nowhere", "model.onnx"]) == 78
    assert "name the new file so: --out model.onnx" in capsys.readouterr().err


@pytest.mark.parametrize("to", MADE)
def test_an_earlier_export_is_replaced_where_nothing_else_lies(to: str, exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos"
    out.mkdir()
    check_out(out, to)  # an empty folder
    for name in MADE[to]:
        file = out / name.format(name="photos")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(exported.read_bytes())
    check_out(out, to)
    for other in ("mine.txt", ".git/HEAD", "others/1/model.onnx"):
        (out / other).parent.mkdir(parents=True, exist_ok=True)
        (out / other).touch()
        with pytest.raises(ConfigError, match="is there, and no export wrote it"):
            check_out(out, to)
        (out / other).unlink()


def test_a_stranger_s_graph_and_script_stay(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "photos.onnx"
    out.write_bytes(b"another graph")
    with pytest.raises(ConfigError, match=r"photos\.onnx is there, and no export wrote it"):
        check_out(out, "onnx")
    out.write_bytes(exported.read_bytes())
    (tmp_path / "photos.py").write_text("mine = 1\n")
    with pytest.raises(ConfigError, match=r"photos\.py is there, and no export wrote it"):
        check_out(out, "onnx")
    (tmp_path / "photos.py").write_bytes(exported.with_suffix(".py").read_bytes())
    check_out(out, "onnx")


def test_tune_measures_and_chooses(bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: None if name in ("openvino", "nncf") else name)
    monkeypatch.setattr(tune, "race", partial(tune.race, seconds=0.0))
    trials = vitrail.tune(bundle, photos, merges=(1,), within=60)
    found = {(trial.engine, trial.precision, trial.merge) for trial in trials}
    assert {("torch", "float32", 0), ("torch", "float32", 1), ("onnxruntime", "float32", 0)} <= found
    assert [trial.speed for trial in trials] == sorted(trial.speed for trial in trials)
    assert all(trial.accuracy.images == 10 for trial in trials)
    plain = next(trial for trial in trials if (trial.engine, trial.merge) == ("onnxruntime", 0))
    assert f"{plain.accuracy.drop:+.2f}" == "+0.00"


def test_tune_leaves_int8_out_where_images_are_too_few(
    bundle: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """int8 takes its scales from images; without enough of them the other ways are measured all the same."""
    monkeypatch.setattr(tune.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(tune, "race", partial(tune.race, seconds=0.0))
    monkeypatch.setattr(tune, "read", lambda file: file)
    monkeypatch.setattr(tune, "in_openvino", lambda graph, facts, precision: tune.open_onnx(graph, device="cpu"))
    monkeypatch.setattr(tune, "quantise", lambda *words, **options: pytest.fail("int8 was tried"))
    monkeypatch.setattr(tune, "LEAST", 21)
    assert len(vitrail.tune(bundle, photos, merges=(), within=60)) >= 3


def test_the_chosen_command_can_be_typed(bundle: Path, in_folder: Path) -> None:
    asked = SimpleNamespace(model=str(bundle), data="my DATA", size=(64, 48), within=1.0)
    told = fill("vitrail export RUN DATA --to openvino --merge 2", asked)
    assert told == f"vitrail export {bundle} 'my DATA' --to openvino --merge 2 --size 64 48 --within 1"
    asked = SimpleNamespace(model=str(bundle), data=None, size=None, within=0.5)
    assert fill("vitrail predict RUN", asked) == f"vitrail predict {bundle}"
    convert, predict = tune.merged_in_torch("vitrail predict RUN", 1).split(" && ")
    assert main(shlex.split(fill(convert, asked))[1:]) == 0 and fill(predict, asked) == "vitrail predict merged-1"
    assert vitrail.load("merged-1").config.extras.merge == 1


def trial(speed: float, drop: float, high: float) -> Trial:
    facts = {"data": "photos", "images": 1000, "before": 0.9, "after": 0.9 - drop / 100, "drop": drop, "within": 0.5}
    accuracy = Accuracy(interval=(2 * drop - high, high), **facts)
    return Trial(engine="a", precision="b", merge=0, speed=speed, times=speed, accuracy=accuracy, command="c")


def test_the_fastest_of_those_whose_loss_is_shown_is_chosen() -> None:
    slow, right, unsure, wrong = trial(1, 0, 0.1), trial(3, 0.2, 0.4), trial(4, 0.3, 0.9), trial(9, 1.0, 1.4)
    best, why = choose([slow, right, unsure, wrong])
    assert best is right and "more images may show it of" in why
    assert choose([unsure])[0] is None
