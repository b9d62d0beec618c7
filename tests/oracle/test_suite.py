"""A suite of real digits: means over what ran, resuming, and files that mean nothing."""

from pathlib import Path

import pytest

from vitrail.errors import ConfigError
from vitrail.evaluate.embedding import Extraction
from vitrail.evaluate.layers import Pixels
from vitrail.evaluate.published import COLUMNS, TABLE6, columns_for
from vitrail.evaluate.suite import ModelEntry, Opened, extraction, read_suite, run_suite
from vitrail.evaluate.suite_report import scatter, sections, table
from vitrail.models import zoo
from vitrail.reports.page import render

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
    assert "get it: torchvision.datasets.DTD" in next(gap.why for gap in missing if gap.task == "dtd")
    assert len(results) == 5 and {result.task for result in results} == {"digits"}
    found = table(suite, results)
    rows = {(protocol, task): value for protocol, task, value in found.rows}
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
    four = extraction(ModelEntry(path="m", layer=10), ["knn", "linear-4"], Extraction())
    assert four.layers == (7, 8, 9, 10)
    assert extraction(ModelEntry(path="m"), ["linear-4"], Extraction()).layers == (-4, -3, -2, -1)
    assert extraction(ModelEntry(path="m"), ["knn"], Extraction()).layers == ()
    assert extraction(ModelEntry(path="pixels"), ["linear-4"], Extraction()).layers == ()


def test_table_6_agrees_with_itself() -> None:
    """Its exaFLOPs are 6 · MACs · images: ViT-B/16's 17.56 GMACs come back, as do twice the epochs."""
    rows = {(row.name, row.epochs): row for row in TABLE6}
    assert rows["ViT-B/16", 7].gmacs == pytest.approx(17.56, rel=0.01)
    assert rows["ViT-L/16", 14].gmacs == pytest.approx(rows["ViT-L/16", 7].gmacs, rel=0.01)
    assert rows["ViT-H/14", 14].gmacs == pytest.approx(167.3, rel=0.01)
    assert columns_for(["pets", "digits"]) == ("pets",) and columns_for(["digits"]) == COLUMNS
