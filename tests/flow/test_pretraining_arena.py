"""The arena: same FLOPs to a step's worth, every readout of every method, one table and one page."""

import json
from pathlib import Path

import pytest

from vitrail.cli import main
from vitrail.errors import ConfigError
from vitrail.recipes.given import Given
from vitrail.study import report
from vitrail.study.pretraining import METHODS, NONE, PROTOCOLS, Arena, Cell, pretraining
from vitrail.train.run import Hardware

DIGITS = Given(images=1438, classes=10, shape=(8, 8, 1))


def test_every_method_spends_the_same_and_a_mask_ratio_keeps_the_images() -> None:
    asked, budget = Arena(data="digits"), 2e12
    found = {method: pretraining(asked, DIGITS, method, budget, 0) for method in METHODS if method != NONE}
    for method, (run, spent) in found.items():
        steps = int(run.length.split()[0])
        assert abs(spent - budget) <= spent / steps, method
    steps = {method: int(run.length.split()[0]) for method, (run, _) in found.items()}
    assert steps["mae"] > 1.5 * steps["simmim"] and steps["contrast"] < 0.6 * steps["simmim"]
    dense, _ = pretraining(asked, DIGITS, "mae", budget, 0, 0.25)
    assert dense.length == found["mae"][0].length and dense.objective.mask_ratio == 0.25


def test_table_and_page_of_known_cells(tmp_path: Path) -> None:
    cells = [
        Cell(study="budget", method=method, seed=seed, flops=flops, protocol=protocol, accuracy=0.5 + 0.1 * seed)
        for method in ("none", "mae")
        for seed in (0, 1)
        for flops in ((1e12, 2e12) if method == "mae" else (0.0,))
        for protocol in PROTOCOLS
    ]
    cells += [
        Cell(study="ratio", method="mae", seed=0, flops=1e12, protocol=p, accuracy=0.4, mask_ratio=r)
        for p in PROTOCOLS
        for r in (0.5, 0.75)
    ]
    rows = list(report.table(cells).written())
    assert rows[1] == ("mae", "2", *["55.0 ± 7.1"] * 4) and len(rows) == 2
    page = report.write_report(Arena(data="digits", seeds=2), cells, tmp_path / "report.html").read_text()
    assert page.count("<svg") == 8 and "$" not in page.split("<svg", 1)[1] and "mask ratio" in page


def test_the_command_from_images_to_report(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = "study pretraining digits --seeds 1 --epochs 0.1 --shares 1.0 --ratios --methods none mae --json"
    assert main([*words.split(), "--hardware.device", "cpu", "--hardware.threads", "1"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in (table["rows"] if isinstance(table, dict) else table)] == ["none", "mae"]
    assert (in_folder / "study/report.html").exists() and not list((in_folder / "study/runs").iterdir())
    cells = json.loads((in_folder / "study/cells.json").read_text())
    assert len(cells) == 2 * len(PROTOCOLS)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"no method 'simim'.*did you mean 'simmim'"):
        Arena(data="digits", methods=("simim",))
    with pytest.raises(ConfigError, match="one seed or more"):
        Arena(data="digits", seeds=0, hardware=Hardware())
