"""A suite of real digits: means over what ran, resuming, and files that mean nothing."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitrail.errors import ConfigError
from vitrail.evaluation.layers import Pixels
from vitrail.evaluation.probing import layers_for
from vitrail.evaluation.vit_table6 import COLUMNS, TABLE6, columns_for
from vitrail.hardware import Hardware
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.models import zoo
from vitrail.reports.page import render
from vitrail.study import suite_tuning
from vitrail.study.suite import run_suite
from vitrail.study.suite_file import FineTune, ModelEntry, Opened, read_suite
from vitrail.study.suite_report import scatter, sections, table
from vitrail.study.suite_tuning import Tuner
from vitrail.weights.bundle import Record, save_bundle

pytestmark = pytest.mark.oracle

SUITE = """
protocols = ["fewshot", "nearest-mean"]
seeds = 2
[[models]]
path = "pixels"
[[tasks]]
data = "digits"
group = "small"
[[tasks]]
data = "no/such/folder"
name = "leaves"
group = "small"
[vtab]
root = "nowhere"
tasks = ["dtd", "svhn"]
"""


def _load(entry: ModelEntry, task: Opened) -> Pixels:
    return Pixels((8, 8), 1)


def test_what_is_missing_is_listed_and_means_are_over_what_ran(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE)
    suite = read_suite(tmp_path / "s.toml")
    results, missing = run_suite(suite, tmp_path / "out", load=_load)
    assert suite.name == "s"
    assert {gap.task for gap in missing} == {"leaves", "dtd", "svhn"}
    assert "unpack a prepared copy of VTAB-1k there" in next(gap.why for gap in missing if gap.task == "dtd")
    assert len(results) == 5 and {result.task for result in results} == {"digits"}
    found = table(suite, results)
    rows = {(protocol, task): value for protocol, task, value, _ in found.rows}
    assert rows["few-shot, 5 shot", "mean of small (1 of 2 tasks)"] == rows["few-shot, 5 shot", "digits"] > 50
    assert not any("VTAB" in task for _, task in rows)
    page = render("s", sections(suite, results, missing))
    assert "leaves" in page and "means are over what ran" in page


def test_a_suite_goes_on_where_it_stopped(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE)
    suite = read_suite(tmp_path / "s.toml")
    first, _ = run_suite(suite, tmp_path / "out", load=_load)
    lines = (tmp_path / "out" / "results.jsonl").read_bytes()
    second, _ = run_suite(suite, tmp_path / "out", load=_load)
    assert second == first and (tmp_path / "out" / "results.jsonl").read_bytes() == lines
    kept = lines.splitlines(keepends=True)
    (tmp_path / "out" / "results.jsonl").write_bytes(kept[0] + kept[1][:40])  # killed while writing
    third, _ = run_suite(suite, tmp_path / "out", load=_load)
    assert [(r.row, r.task) for r in third] == [(r.row, r.task) for r in first]


def test_costs_come_with_the_models_and_the_paper_stands_behind(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE)
    small = zoo.build(
        "vit-ti/16", width=16, depth=2, heads=2, mlp_width=32, patch=(2, 2), image=(8, 8), channels=1, classes=10
    )
    pixels = Pixels((8, 8), 1)
    small.record = pixels.record
    results, _ = run_suite(read_suite(tmp_path / "s.toml"), tmp_path / "out", load=lambda *_: small)
    assert results[0].parameters == sum(p.numel() for p in small.parameters())
    assert results[0].images_per_s and results[0].images_per_s > 0
    drawing = scatter(results)
    assert (
        drawing is not None
        and "ViT-H/14" in drawing.svg
        and "pixels" in drawing.svg
        and "mathdefault" not in drawing.svg
    )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (SUITE.replace("seeds", "seed"), r"unknown key 'seed' \(did you mean 'seeds'"),
        (SUITE.replace('"fewshot"', '"fewshott"'), "did you mean 'fewshot'"),
        ('[[models]]\npath = "pixels"\n', "without models or without tasks"),
        ("x = [", "not a readable TOML file"),
        (
            SUITE.replace('path = "pixels"', 'path = "pixels"\n[[models]]\npath = "pixels"'),
            "two models are called alike",
        ),
        (SUITE.replace('"dtd"', '"dtt"'), "did you mean 'dtd'"),
    ],
)
def test_files_that_mean_nothing_say_so(tmp_path: Path, changed: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(changed)
    with pytest.raises(ConfigError, match=message):
        run_suite(read_suite(tmp_path / "s.toml"), tmp_path / "out", load=_load)


def test_blocks_follow_from_the_protocols() -> None:
    small = {"width": 16, "depth": 5, "heads": 2, "mlp_width": 32, "patch": (2, 2), "image": (8, 8), "classes": 3}
    model = zoo.build("vit-ti/16", **small)
    assert layers_for(model, ["knn", "linear-4"], [4]) == (1, 2, 3, 4)
    assert layers_for(model, ["linear-4"]) == (2, 3, 4, 5)
    assert layers_for(model, ["knn"]) == ()
    assert layers_for(Pixels((8, 8), 1), ["linear-4"]) == ()
    with pytest.raises(ConfigError, match="4 blocks that end with layer 3; allowed: layers from 4 on"):
        layers_for(model, ["linear-4"], [3])


def test_table_6_agrees_with_itself() -> None:
    """Its exaFLOPs are 6 · MACs · images: ViT-B/16's 17.56 GMACs come back, as do twice the epochs."""
    rows = {(row.name, row.epochs): row for row in TABLE6}
    assert rows["ViT-B/16", 7].gmacs == pytest.approx(17.56, rel=0.01)
    assert rows["ViT-L/16", 14].gmacs == pytest.approx(rows["ViT-L/16", 7].gmacs, rel=0.01)
    assert rows["ViT-H/14", 14].gmacs == pytest.approx(167.3, rel=0.01)
    assert columns_for(["pets", "digits"]) == ("pets",) and columns_for(["digits"]) == COLUMNS


def test_fine_tuning_chooses_on_800_and_200_and_trains_on_1000(tmp_path: Path, monkeypatch) -> None:
    seen = []

    def train_to_end(run, folder, splits):
        seen.append((run.optim.lr, run.seed, run.length, len(splits.train), len(splits.test), folder.name))
        right = SimpleNamespace(value=0.5 if run.optim.lr == 0.01 else 0.25)
        return SimpleNamespace(scores=SimpleNamespace(headline=right, images=len(splits.test)))

    monkeypatch.setattr(suite_tuning, "train_to_end", train_to_end)
    config = zoo.config("vit-ti/16", width=16, depth=2, heads=2, mlp_width=32, classes=3)
    save_bundle(tmp_path / "m", zoo.build(config), Record(config=config, preprocess=Preprocess(size=config.image)))
    source = open_data("digits").train
    train, val, test = (source.subset(range(a, b)) for a, b in ((0, 800), (800, 1000), (1000, 1100)))
    task = Opened("t", "", {"train": source.subset(range(1000)), "test": test}, (train, val))
    tuner = Tuner(settings=FineTune(lr=(0.1, 0.01)), seeds=2, hardware=Hardware(), say=str)
    row = tuner(ModelEntry(path=str(tmp_path / "m")), task, tmp_path / "runs")
    assert seen == [
        (0.1, 0, "2500 steps", 800, 200, "lr-0.1"),
        (0.01, 0, "2500 steps", 800, 200, "lr-0.01"),
        (0.01, 0, "2500 steps", 1000, 100, "seed-0"),
        (0.01, 1, "2500 steps", 1000, 100, "seed-1"),
    ]
    assert (row.protocol, row.setting, row.images, row.tested) == ("fine-tuned", "2,500 steps, 384 px", 1000, 100)
    assert row.spread.mean == 0.5 and row.note == "lr 0.01, the best of 2 on held-out training images"
    seen.clear()
    replace(tuner, settings=FineTune(), seeds=1)(ModelEntry(path=str(tmp_path / "m")), task, tmp_path / "runs")
    assert [call[0] for call in seen] == [0.01]  # nothing to choose
    with pytest.raises(ConfigError, match="the recipe folder starts from nothing"):
        replace(tuner, settings=FineTune(recipe="folder"))(ModelEntry(path=str(tmp_path / "m")), task, tmp_path)
