"""Several labels an image, from a CSV to a prediction: drawn shapes, up to three in an image, some images with none."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from sklearn import metrics

import vitrail
from vitrail.batches.loader import eval_batches
from vitrail.cli import main
from vitrail.evaluation.features import extract
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.models.vit import ViTConfig
from vitrail.objectives.classify import Classify
from vitrail.objectives.distill import Distill
from vitrail.prediction.predict import predict
from vitrail.reports.journal import read
from vitrail.training.loop import Result, train
from vitrail.training.run import Hardware, Optim, Run
from vitrail.weights.bundle import load

pytestmark = pytest.mark.flow

SHAPES = ("bar", "box", "disc")
DRAWS_REPORTS = True
RUN = Run(
    model=ViTConfig(patch=(4, 4), width=32, depth=2, heads=2, mlp_width=64, pool="mean"),
    preprocess=Preprocess(size=(24, 24), mean=(0.5,), std=(0.5,)),
    optim=Optim(lr=5e-3, warmup="10 %"),
    batch_size=50,
    length="6 epochs",
    evaluate_every="2 epochs",
    save_every="6 epochs",
    hardware=Hardware(device="cpu", precision="fp32", compile="off", threads=1, workers=0),
)


def draw(rng: np.random.Generator) -> tuple[Image.Image, list[str]]:
    """A grey image with each shape or without, each in a third of its own, and their names."""
    image = Image.fromarray(rng.integers(0, 200, (24, 24), np.uint8))
    pen, names = ImageDraw.Draw(image), [name for name in SHAPES if rng.random() < 0.4]
    for name, column in zip(names, rng.permutation(3)[: len(names)], strict=True):
        x, y = 8 * int(column), int(rng.integers(0, 16))
        if name == "bar":
            pen.rectangle((x + 3, y, x + 4, y + 7), fill=230)
        elif name == "box":
            pen.rectangle((x + 1, y + 1, x + 6, y + 6), outline=230)
        else:
            pen.ellipse((x, y, x + 7, y + 7), fill=230)
    return image, names


def write_set(folder: Path, *, parts: tuple[str, ...]) -> Path:
    """A CSV of 300 images for each training part and 100 for the others, and the images."""
    rng, rows = np.random.default_rng(0), []
    for part in parts:
        for index in range(300 if part == "train" else 100):
            image, names = draw(rng)
            image.save(folder / f"{part}-{index}.png")
            rows.append((f"{part}-{index}.png", "|".join(names), part))
    with open(folder / "shapes.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "labels", "split"), *rows])
    return folder / "shapes.csv"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    folder = tmp_path_factory.mktemp("shapes")
    data = write_set(folder, parts=("train", "val", "test"))
    return data, train(dataclasses.replace(RUN, data=str(data)), out=folder / "run", quiet=True)


def test_a_run_learns_by_sigmoid_and_is_known_by_mean_average_precision(trained: tuple[Path, Result]) -> None:
    data, result = trained
    assert result.setup.run.objective == Classify(loss="sigmoid")
    assert result.scores.headline.name == "mean average precision" and result.scores.headline.value > 0.8
    low, high = result.scores.headline.interval
    assert low <= result.scores.headline.value <= high and high - low > 0.001
    model, test = load(result.folder), open_data(str(data)).test
    batches = eval_batches(test, preprocess=model.record.preprocess, batch_size=50)
    logits = extract(model, batches, precision="fp32").features
    expected = metrics.average_precision_score(test.labels, logits.numpy(), average="macro")
    assert result.scores.headline.value == pytest.approx(expected, abs=1e-6)


def test_the_best_weights_are_those_of_the_best_validation_precision(trained: tuple[Path, Result]) -> None:
    _, result = trained
    rows = [row for row in read(result.folder / "metrics.jsonl") if "held_out_map" in row]
    assert len(rows) == 3
    best = load(result.folder / "best")
    assert best.record.threshold and best.record.scores["map"] == result.scores.numbers["map"]
    assert best.record.threshold == max(rows, key=lambda row: row["held_out_map"])["held_out_threshold"]
    assert result.scores.numbers["threshold"] == best.record.threshold


def test_the_report_and_the_sheet_show_labels(trained: tuple[Path, Result]) -> None:
    _, result = trained
    page = (result.folder / "report.html").read_text("utf-8")
    assert "Mean average precision" in page and "chosen on validation images" in page
    assert all(name in page for name in SHAPES) and (result.folder / "predictions.png").stat().st_size > 1000


def test_predictions_are_the_labels_above_the_threshold(trained: tuple[Path, Result]) -> None:
    data, result = trained
    model, test = load(result.folder), open_data(str(data)).test
    probabilities = extract(
        model, eval_batches(test, preprocess=model.record.preprocess, batch_size=50)
    ).features.sigmoid()
    found = list(predict(model, test, quiet=True, top_k=1))
    for one, row in zip(found, probabilities, strict=True):
        above = {SHAPES[k]: float(row[k]) for k in range(3) if row[k] >= model.record.threshold}
        assert dict(zip(one.labels, one.probabilities, strict=True)) == pytest.approx(above, abs=1e-5)
        assert list(one.probabilities) == sorted(one.probabilities, reverse=True)
    assert any(not one.labels for one in found) and any(len(one.labels) > 1 for one in found)


def test_commands_speak_of_several_labels(trained: tuple[Path, Result], capsys: pytest.CaptureFixture[str]) -> None:
    data, result = trained
    assert main(["evaluate", str(result.folder), str(data), "--json", "--precision", "fp32"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["map"] == pytest.approx(result.scores.headline.value, abs=1e-6)
    assert [row["name"] for row in found["per_class"]] == list(SHAPES)
    assert main(["evaluate", str(result.folder), str(data)]) == 0
    assert "Mean average precision" in capsys.readouterr().out
    images = sorted(str(path) for path in data.parent.glob("test-*.png"))[:20]
    assert main(["predict", str(result.folder), *images]) == 0
    shown = capsys.readouterr().out
    assert "none of these" in shown and len(shown.splitlines()) >= 22


@pytest.mark.report
def test_without_a_validation_split_no_image_chooses_its_own_threshold(tmp_path: Path) -> None:
    data = write_set(tmp_path, parts=("train", "test"))
    run = dataclasses.replace(RUN, data=str(data), length="2 epochs", evaluate_every="2 epochs")
    result = train(run, out=tmp_path / "run", quiet=True)
    assert "applied to the other" in (tmp_path / "run" / "report.html").read_text("utf-8")
    assert load(tmp_path / "run").record.threshold == result.scores.numbers["threshold"]


def test_objectives_of_one_label_are_refused(tmp_path: Path) -> None:
    data = write_set(tmp_path, parts=("train", "test"))
    for objective in (Classify(loss="softmax"), Distill(teacher="anything")):
        with pytest.raises(vitrail.errors.ConfigError, match="several"):
            train(dataclasses.replace(RUN, data=str(data), objective=objective), out=tmp_path / "run", quiet=True)
