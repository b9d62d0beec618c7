"""Search and transfer: validation images choose, test images judge; what was tried is not tried again."""

import shutil
from pathlib import Path

import pytest

from tests.support.objectives import DIGITS, teacher
from vitrail import study
from vitrail.errors import ConfigError
from vitrail.study.cells import Cell, Row
from vitrail.study.engine import Answers
from vitrail.study.fine_tuning import answer, choose_rates, plan
from vitrail.study.optuna_search import distribution
from vitrail.study.optuna_search import show as show_search
from vitrail.study.questions import Search, Transfer

pytestmark = pytest.mark.flow

SMALL = {"model.width": 32, "model.depth": 1, "model.heads": 2, "model.mlp_width": 32, "length": "2 steps", "batch": 32}
SPACE = {"optim.lr": "log 1e-4..1e-2", "augment.flip": "true,false"}


def trial(number: int, validation: float, accuracy: float) -> Row:
    place = {"trial": number, "optim.lr": 0.1}
    return Row(place=place, numbers={"validation": validation, "accuracy": accuracy})


def test_the_test_images_judge_the_best_trial_alone() -> None:
    asked = Search(data="digits", space={"optim.lr": "0.1,0.2"})
    shown = show_search(asked, [trial(0, 0.6, 0.9), trial(1, 0.8, 0.7)])
    assert [row[0] for row in shown.table.rows] == [1, 0]
    assert [row[-1] for row in shown.table.rows] == [
        pytest.approx(70.0),
        None,
    ] and "Trial 1 is the best of 2" in shown.says


def test_the_words_of_a_space() -> None:
    optuna = pytest.importorskip("optuna", reason="needs the extra search")
    kinds = optuna.distributions
    assert distribution(optuna, "a", "2..8") == kinds.IntDistribution(2, 8)
    assert distribution(optuna, "a", "log 1e-4..1e-2") == kinds.FloatDistribution(1e-4, 1e-2, log=True)
    assert distribution(optuna, "a", "x,2") == kinds.CategoricalDistribution(["x", 2])
    for wrong in ("a..b", "8..2", "log 0..1"):
        with pytest.raises(ConfigError, match="is no range"):
            distribution(optuna, "a", wrong)


def test_a_search_goes_on_where_it_stopped(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna", reason="needs the extra search")
    told = {"data": "digits", "space": SPACE, "fixed": SMALL, "device": "cpu"}
    first = study.search(trials=1, **told)
    assert not first.failed and len(first.rows) == 1
    known = []
    monkeypatch.setattr(
        "vitrail.study.optuna_search.measure_cell", lambda cell, **_: known.append(cell) or [trial(1, 0.0, 0.0)]
    )
    second = study.search(trials=2, **told)
    assert [cell.place["trial"] for cell in known] == [1] and second.rows[0] == first.rows[0]


def test_rates_are_chosen_by_validation_images() -> None:
    rows = [
        Row(place={"set": "a", "model": "m", "rate": rate}, numbers={"validation": score})
        for rate, score in ((0.1, 0.5), (0.2, 0.7), (0.3, 0.6))
    ]
    assert choose_rates(rows) == {("a", "m"): 0.2}


def test_the_plan_of_a_transfer_is_the_grid_then_the_seeds(tmp_path: Path) -> None:
    weights = str(teacher(tmp_path / "weights"))
    asked = Transfer(data="digits", models=(weights,), scratch=True, recipe="finetune_small", seeds=2, device="cpu")
    tried = list(plan(asked, asked.rates, range(1), choosing=True))
    assert len(tried) == 2 * 3 and all(cell.stages[0].validate and not cell.stages[0].accuracy for cell in tried)
    rates = sorted({cell.place["rate"] for cell in tried if cell.place["model"] == weights})
    assert rates[2] / rates[1] == pytest.approx(3) and rates[0] / rates[1] == pytest.approx(0.3)
    scratch = [cell.stages[0].run for cell in tried if cell.place["model"] == "from scratch"]
    assert all(run.weights is None and run.head == "zero" for run in scratch)
    with pytest.raises(ConfigError, match="no checkpoints were named"):
        Transfer(data="digits")


def test_other_weights_in_the_same_place_are_other_cells(tmp_path: Path) -> None:
    asked = Transfer(data="digits", models=(str(tmp_path / "weights"),), recipe="finetune_small", seeds=1, device="cpu")

    def key() -> str:
        return next(plan(asked, (1.0,), range(1))).key

    teacher(tmp_path / "weights")
    first = key()
    shutil.copytree(tmp_path / "weights", tmp_path / "kept")
    teacher(tmp_path / "weights", DIGITS[:9])
    assert key() != first
    shutil.rmtree(tmp_path / "weights")
    shutil.move(tmp_path / "kept", tmp_path / "weights")
    assert key() == first


def test_weights_that_cannot_be_read_cost_their_own_cells_only(tmp_path: Path) -> None:
    weights = str(teacher(tmp_path / "weights"))
    torn = teacher(tmp_path / "torn") / "model.safetensors"
    torn.write_bytes(torn.read_bytes()[:-1])
    models = (str(tmp_path / "torn"), "nowhere", weights)
    asked = Transfer(data="digits", models=models, recipe="finetune_small", seeds=1, device="cpu", rates=(1.0,))
    torn_one, absent, good = plan(asked, asked.rates, range(1))
    assert "is damaged" in torn_one.refused and absent.refused.startswith("there is nothing at nowhere")
    assert not good.refused and "rate" in good.place


@pytest.mark.parametrize(("rates", "tried"), [((1.0,), 0), ((1.0, 3.0), 2)])
def test_one_rate_needs_no_choice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rates: tuple[float, ...], tried: int
) -> None:
    weights = str(teacher(tmp_path / "weights"))
    asked = Transfer(data="digits", models=(weights,), recipe="finetune_small", seeds=2, rates=rates, device="cpu")
    ran: list[list[Cell]] = []

    def run(_: Transfer, cells: list[Cell]) -> Answers[Row]:
        ran.append(cells)
        numbers = [{"accuracy": 0.5, "validation": place} for place in range(len(cells))]
        return Answers({str(c): [Row(place=dict(c.place), numbers=n)] for c, n in zip(cells, numbers, strict=True)})

    monkeypatch.setattr("vitrail.study.fine_tuning.run_cells", run)
    monkeypatch.setattr("vitrail.study.fine_tuning.write_answer", lambda asked, found, show: found)
    answer(asked)
    assert len(ran[0]) == tried and [cell.place["seed"] for cell in ran[1]] == [0, 1]
    assert {cell.place["rate"] for cell in ran[1]} == {max(cell.place["rate"] for cell in [*ran[0], *ran[1]])}


@pytest.mark.deep
def test_a_transfer_ends_with_one_row_for_each_seed(tmp_path: Path) -> None:
    weights = str(teacher(tmp_path / "weights"))
    told = {"data": "digits", "models": (weights,), "scratch": True, "seeds": 2, "length": "2 steps", "at_once": 1}
    found = study.transfer(out=tmp_path / "out", device="cpu", rates=(1.0, 3.0), **told)
    assert len(found.rows) == 4 and not found.failed and "On digits:" in found.says
