"""Regression: a column of numbers is learned, scored, predicted and reported in its own unit."""

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support.runs import TINY, assert_same_run, no_report, stop_after
from vitrail.cli import main
from vitrail.errors import ConfigError, DataError, Preempted
from vitrail.evaluation.ridge import ridge
from vitrail.images.preprocess import Preprocess
from vitrail.images.shards import pack
from vitrail.images.sources import open_data
from vitrail.models import zoo
from vitrail.models.deit import DeiTConfig
from vitrail.objectives.regress import Regress
from vitrail.scores.regression import score_numbers
from vitrail.training import loop
from vitrail.training.head_start import head_start
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import prepare
from vitrail.weights.bundle import load

pytestmark = pytest.mark.flow
DRAWS_REPORTS = True


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """80 images of noise whose brightness, in lux, is the number to predict."""
    root, draws = tmp_path_factory.mktemp("lux"), np.random.default_rng(0)
    rows = []
    for index in range(80):
        light = draws.uniform(20, 230)
        pixels = draws.normal(light, 10, (8, 8, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{index}.png")
        rows.append((f"{index}.png", 1000 + 10 * light))
    with open(root / "list.csv", "w", newline="") as file:
        csv.writer(file).writerows([("path", "Lux"), *rows])
    (root / "values.csv").write_text((root / "list.csv").read_text().replace("path,Lux", "path,value"))
    (root / "labels.csv").write_text((root / "list.csv").read_text().replace("path,Lux", "path,label"))
    return root


RUN = dataclasses.replace(
    TINY, preprocess=Preprocess(size=(8, 8)), batch_size=16, length="20 epochs", evaluate_every="10 epochs",
    save_every="2 epochs",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(listed: Path, tmp_path_factory: pytest.TempPathFactory) -> loop.Result:
    run = dataclasses.replace(RUN, data=str(listed / "values.csv"))
    return loop.train(run, out=tmp_path_factory.mktemp("numbers") / "run", quiet=True)


def test_a_column_of_numbers_is_no_list_of_classes(listed: Path, tmp_path: Path) -> None:
    for name, called in (("values.csv", "value"), ("labels.csv", "label")):
        splits = open_data(listed / name)
        assert splits.train.numeric and splits.train.classes == (called,)
        assert splits.train.labels.shape == (64, 1) and splits.train.labels.min() >= 1200
    whole = (listed / "labels.csv").read_text().splitlines()
    (tmp_path / "whole.csv").write_text("\n".join([whole[0], *(f"{listed}/{k}.png,{k % 3}" for k in range(80))]))
    assert open_data(tmp_path / "whole.csv").train.classes == ("0", "1", "2")
    (tmp_path / "bad.csv").write_text(
        "path,value\n" + "\n".join(f"{listed}/{k}.png,{'nan' if k else 'x'}" for k in range(2))
    )
    with pytest.raises(DataError, match="line 2: 'x' is no number; line 3: 'nan' is no number"):
        open_data(tmp_path / "bad.csv")


def test_scores_equal_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    draws = torch.Generator().manual_seed(0)
    truth = 50 + 9 * torch.randn(200, 1, generator=draws, dtype=torch.float64)
    answers = truth + 3 * torch.randn(200, 1, generator=draws)
    found = score_numbers(answers, truth)
    assert found.mae.value == pytest.approx(metrics.mean_absolute_error(truth, answers))
    assert found.rmse**2 == pytest.approx(metrics.mean_squared_error(truth, answers))
    assert found.r2.value == pytest.approx(metrics.r2_score(truth, answers))
    assert found.mae.low < found.mae.value < found.mae.high and found.r2.low < found.r2.value < found.r2.high
    half = np.std(np.abs(found.answers - found.truth), ddof=1) * 1.96 / 200**0.5
    assert found.mae.high - found.mae.value == pytest.approx(half, rel=0.25)


def test_leave_one_out_of_ridge_is_that_of_so_many_fits() -> None:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(30, 5, generator=draws, dtype=torch.float64)
    y = x @ torch.randn(5, 1, generator=draws, dtype=torch.float64) + 0.3 * torch.randn(30, 1, generator=draws) + 7
    fit, expected = ridge(x, y)
    errors = []
    for out in range(30):
        rest = torch.arange(30) != out
        errors.append(float((ridge_by_hand(x[rest], y[rest], fit, x) - y)[out].abs()))
    assert expected == pytest.approx(np.mean(errors), rel=0.02)  # a fit of 29 has a slightly smaller λ·N
    assert torch.allclose(fit.answers(x), ridge_by_hand(x, y, fit, x), atol=1e-6)


def ridge_by_hand(x: torch.Tensor, y: torch.Tensor, fit: object, asked: torch.Tensor) -> torch.Tensor:
    """The normal equations with the λ of `fit`."""
    mean, middle = x.mean(0), y.mean(0)
    strength = fit.c * torch.eye(x.shape[1], dtype=x.dtype)  # pyrefly: ignore[missing-attribute]
    weight = torch.linalg.solve((x - mean).T @ (x - mean) + strength, (x - mean).T @ (y - middle))
    return (asked - mean) @ weight + middle


def test_the_model_answers_in_the_unit_of_the_labels(trained: loop.Result, listed: Path) -> None:
    """Always the mean would be 500 lux off; the saved model answers as training judged it."""
    scores = trained.scores
    assert scores.headline.name == "mean error" and scores.headline.value < 200 < trained.baselines["always the mean"]
    objective = trained.setup.run.objective
    labels = trained.setup.splits.train.labels
    assert isinstance(objective, Regress) and objective.mean == pytest.approx(labels.mean())
    assert not trained.setup.run.mixing.on
    found = vitrail.evaluate(trained.folder, listed / "values.csv", precision="fp32")
    assert found.numbers == pytest.approx(dict(scores.numbers), rel=1e-4)
    model = load(trained.folder)
    assert model.record.numeric and model.record.classes == ("value",)
    (answer,) = vitrail.predict(trained.folder, listed / "3.png", precision="fp32")
    assert answer.labels == () and 1000 < answer.value < 3500
    assert trained.best is not None and trained.best.headline.value <= scores.headline.value + 1e-6


def test_the_report_and_the_commands_speak_of_numbers(
    trained: loop.Result, listed: Path, capsys, tmp_path: Path
) -> None:
    page = (trained.folder / "report.html").read_text()
    assert "Mean error" in page and "always the mean" in page and "Confusion" not in page
    assert (
        main(["evaluate", str(trained.folder), str(listed / "values.csv"), "--answers", str(tmp_path / "a.csv")]) == 0
    )
    assert "R²" in capsys.readouterr().out
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) == 16 and all(
        float(row["error"]) == pytest.approx(float(row["answer"]) - float(row["truth"])) for row in rows
    )
    assert main(["predict", str(trained.folder), str(listed / "1.png"), "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)[0]) == {"file", "value"}
    assert main(["predict", str(trained.folder), str(listed / "1.png"), "--csv"]) == 0
    assert capsys.readouterr().out.startswith("file,value\n")


def test_a_resumed_run_is_the_same_run(listed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = dataclasses.replace(RUN, data=str(listed / "values.csv"), length="4 epochs")
    with no_report():
        whole = loop.train(run, out=tmp_path / "whole", quiet=True)
        with monkeypatch.context() as patched:
            stop_after(9, patched)
            with pytest.raises(Preempted):
                loop.train(run, out=tmp_path / "run", quiet=True)
        resumed = loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert_same_run(whole.folder, resumed.folder)
    assert RunFolder.read(tmp_path / "run").objective.family == "regress"


def test_a_head_by_ridge_beats_the_mean_before_the_first_step(trained: loop.Result, listed: Path) -> None:
    run = dataclasses.replace(RUN, data=str(listed / "labels.csv"), weights=str(trained.folder), head="logistic")
    setup = prepare(run)
    start = head_start(setup)
    assert start.baselines["ridge on frozen features"] < 0.5 * start.baselines["always the mean"]
    assert any("ridge regression" in note for note in start.notes)
    source = setup.splits.test
    pixels = torch.from_numpy(np.stack([source.pixels(k) for k in range(len(source))])).permute(0, 3, 1, 2)
    model = setup.run.objective.model_of(setup.model).eval()
    with torch.no_grad():
        answers = model(run.preprocess.normalise(pixels))
    error = float((answers - torch.from_numpy(source.labels)).abs().mean())
    assert error == pytest.approx(start.baselines["ridge on frozen features"], rel=1e-3)


def test_shards_of_numbers_are_numbers(listed: Path, tmp_path: Path) -> None:
    one = open_data(listed / "values.csv")
    two = open_data(pack(one, tmp_path / "shards"))
    assert two.train.numeric and two.test.numeric and two.train.classes == one.train.classes
    assert np.array_equal(two.train.labels, one.train.labels)


def test_both_heads_of_a_deit_answer_in_the_unit_of_the_labels() -> None:
    model = zoo.build(
        DeiTConfig(image=(8, 8), patch=(4, 4), width=32, depth=1, heads=2, mlp_width=32, classes=1),
        generator=torch.Generator().manual_seed(0),
    ).eval()
    for head in model.head.children():
        torch.nn.init.normal_(head.weight)
    images = torch.randn(3, 3, 8, 8)
    with torch.no_grad():
        answers = Regress(mean=5.0, std=2.0).model_of(model)(images)
        assert torch.allclose(answers, 5 + 2 * model(images), atol=1e-5)


def test_numbers_and_classes_are_not_confused(trained: loop.Result, listed: Path) -> None:
    with pytest.raises(DataError, match="the model answers with numbers, the images of digits have classes"):
        vitrail.evaluate(trained.folder, "digits")
    with pytest.raises(ConfigError, match="reads a number"):
        prepare(dataclasses.replace(TINY, objective=Regress()))
    with pytest.raises(ConfigError, match="balance"):
        prepare(dataclasses.replace(RUN, data=str(listed / "values.csv"), balance="loss"))
    with pytest.raises(DataError):
        vitrail.compare(trained.folder, trained.folder, listed / "values.csv")
