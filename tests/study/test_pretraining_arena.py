"""The arena: same FLOPs to a step's worth, every readout of every method, one table and one page."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from vitrail.cli import main
from vitrail.errors import ConfigError
from vitrail.recipes.pretraining import SMALL
from vitrail.recipes.request import Given
from vitrail.study.arena import PROTOCOLS, plan, plan_pretraining, show
from vitrail.study.cells import Row
from vitrail.study.label_questions import METHODS, Pretraining

pytestmark = pytest.mark.flow

DIGITS = Given(images=1438, classes=10, shape=(8, 8, 1))


def test_the_methods_are_those_of_the_recipe() -> None:
    assert ("none", "supervised", *SMALL) == METHODS


def test_every_method_spends_the_same_and_a_mask_ratio_keeps_the_images() -> None:
    asked, budget = Pretraining(data="digits"), 2e12
    found = {method: plan_pretraining(asked, DIGITS, method, budget, 0) for method in METHODS if method != "none"}
    for method, (run, spent) in found.items():
        steps = int(run.length.split()[0])
        assert abs(spent - budget) <= spent / steps, method
    steps = {method: int(run.length.split()[0]) for method, (run, _) in found.items()}
    assert steps["mae"] > 1.5 * steps["simmim"] and steps["contrast"] < 0.6 * steps["simmim"]
    dense, _ = plan_pretraining(asked, DIGITS, "mae", budget, 0, 0.25)
    assert dense.length == found["mae"][0].length and dense.objective.mask_ratio == 0.25


def row(method: str, seed: int, flops: float, budget: float, accuracy: float, **place: float) -> Row:
    numbers = {name: accuracy for name in PROTOCOLS} | {"flops": flops}
    return Row(place={"method": method, "budget": budget, "seed": seed, **place}, numbers=numbers)


def test_table_figures_and_words_of_known_cells() -> None:
    asked = Pretraining(data="digits", seeds=2, shares=(0.5, 1.0), ratios=(0.5, 0.75))
    cells = [row("none", seed, 0.0, 0.0, 0.3) for seed in (0, 1)]
    cells += [row("mae", s, 2e12 * share, share, 0.5 + 0.1 * s) for s in (0, 1) for share in (0.5, 1.0)]
    cells += [row("mae", 0, 2e12, 1.0, 0.4, **{"mask ratio": 0.5})]
    shown = show(asked, cells)
    assert [one[0] for one in shown.table.rows] == ["none", "mae"]
    assert list(shown.table.written())[1] == ("mae", *["55.00", "7.07"] * 4, "2", "2")
    assert "mae − none: +25.00 points, more than the larger spread over seeds, 7.07" in shown.says
    *curves, ratios = shown.charts
    assert [chart.series[0].x for chart in curves] == [[1.0, 2.0]] * 4
    assert ratios.series[0].x == [0.5, 0.75] and ratios.series[0].y == [40.0, pytest.approx(55.0)]


COMMAND = (
    "study pretraining digits --seeds 1 --epochs 0.1 --shares 1.0 --ratios 0.75 --methods none mae --json --at-once 1"
)


def test_the_command_from_images_to_report_and_once_more_without_measuring_again(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.study.arena.TUNING", "4 steps")
    monkeypatch.setattr(
        "vitrail.study.readouts.linear_probe", lambda *_: SimpleNamespace(accuracy=0.5)
    )  # has its own tests
    words = [*COMMAND.split(), "--device", "cpu"]
    assert main(words) == 0
    first = capsys.readouterr()
    assert [one["method"] for one in json.loads(first.out)] == ["none", "mae"]
    assert "cells 2/2" in first.err and "method mae, budget 1.0, seed 0: 5-shot" in first.err
    folder = in_folder / "runs/pretraining-digits"
    assert (folder / "report.html").exists() and not list((folder / "cells").iterdir())

    monkeypatch.setattr("vitrail.study.cells.train", pytest.fail)
    assert main(words) == 0 and capsys.readouterr().out == first.out
    assert main([*words, "--epochs", "0.2"]) == 78
    assert "holds a study with other settings: epochs 0.1, not 0.2" in capsys.readouterr().err


def test_one_cell_for_each_number_and_none_twice() -> None:
    asked = Pretraining(data="digits", seeds=2)
    found = [cell.key for cell in plan(asked, DIGITS)]
    assert len(found) == len(set(found)) == 2 * (1 + 5 * 2 + 3)
    without = dataclasses.replace(asked, methods=("none",))
    assert len(list(plan(without, DIGITS))) == 2 * (1 + 4)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="one seed or more"):
        Pretraining(data="digits", seeds=0)
    with pytest.raises(ConfigError, match=r"shares = \(0.0, 1.0\); allowed: numbers above 0"):
        Pretraining(data="digits", shares=(0.0, 1.0))
