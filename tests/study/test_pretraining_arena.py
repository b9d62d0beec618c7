"""The arena: same FLOPs to a step's worth, every readout of every method, one table and one page."""

import json
from pathlib import Path

import pytest

from vitrail.cli import main
from vitrail.errors import ConfigError
from vitrail.recipes.request import Given
from vitrail.study import report
from vitrail.study.parallel import each
from vitrail.study.pretraining import METHODS, NONE, Arena, Cell, jobs, plan_pretraining
from vitrail.study.protocols import PROTOCOLS
from vitrail.training.run import Hardware

pytestmark = pytest.mark.flow

DIGITS = Given(images=1438, classes=10, shape=(8, 8, 1))


def test_every_method_spends_the_same_and_a_mask_ratio_keeps_the_images() -> None:
    asked, budget = Arena(data="digits"), 2e12
    found = {method: plan_pretraining(asked, DIGITS, method, budget, 0) for method in METHODS if method != NONE}
    for method, (run, spent) in found.items():
        steps = int(run.length.split()[0])
        assert abs(spent - budget) <= spent / steps, method
    steps = {method: int(run.length.split()[0]) for method, (run, _) in found.items()}
    assert steps["mae"] > 1.5 * steps["simmim"] and steps["contrast"] < 0.6 * steps["simmim"]
    dense, _ = plan_pretraining(asked, DIGITS, "mae", budget, 0, 0.25)
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
    assert (
        page.count("<svg") == 8 and "$" not in page.split("<svg", 1)[1].split("<script", 1)[0] and "mask ratio" in page
    )


COMMAND = (
    "study pretraining digits --seeds 1 --epochs 0.1 --shares 1.0 --ratios 0.75 --methods none mae --json --at-once 1"
)


def test_the_command_from_images_to_report_and_once_more_without_measuring_again(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*COMMAND.split(), "--hardware.device", "cpu"]
    assert main(words) == 0
    first = capsys.readouterr()
    table = json.loads(first.out)
    assert [row["method"] for row in (table["rows"] if isinstance(table, dict) else table)] == ["none", "mae"]
    assert "arena 2/2" in first.err and "mae, seed 0: 5-shot" in first.err
    assert (in_folder / "runs/study/report.html").exists() and not list((in_folder / "runs/study/runs").iterdir())
    lines = [json.loads(line) for line in (in_folder / "runs/study/results.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == ["none, seed 0", "mae, seed 0"]
    assert [len(line["results"]) for line in lines] == [
        len(PROTOCOLS),
        2 * len(PROTOCOLS),
    ]  # the mask ratio of 0.75 is the table's own

    monkeypatch.setattr("vitrail.study.pretraining.train_to_end", pytest.fail)
    assert main(words) == 0 and capsys.readouterr().out == first.out
    assert main([*words, "--epochs", "0.2"]) == 78
    assert "study holds a study with other settings: epochs 0.1, not 0.2" in capsys.readouterr().err


def test_a_job_that_was_cut_off_is_done_again_whole(
    in_folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = [(protocol, 0.5) for protocol in PROTOCOLS]
    monkeypatch.setattr("vitrail.study.pretraining.measure_run", lambda *words: iter(answers))
    words = [*COMMAND.split(), "--hardware.device", "cpu"]
    assert main(words) == 0
    path = in_folder / "runs/study/results.jsonl"
    whole = path.read_text()
    path.write_text(whole[: 3 * len(whole) // 4])  # all of the first job, a part of the second
    capsys.readouterr()
    assert main(words) == 0 and path.read_text() == whole
    said = capsys.readouterr().err
    assert "none, seed 0: 5-shot 50.0%" in said and said.count("(from before)") == 1
    path.write_text("{\n" + whole)
    assert main(words) == 74 and "results.jsonl, line 1 is not a JSON object" in capsys.readouterr().err


def test_one_job_for_each_number_and_none_twice() -> None:
    asked = Arena(data="digits", seeds=2)
    found = list(jobs(asked))
    assert len(found) == len(set(found)) == 2 * (1 + 5 * 2 + 3)
    assert len(list(jobs(Arena(data="digits", seeds=2, shares=(0.5,))))) == 2 * (1 + 5 + 4)


def test_side_by_side_gives_each_its_own_answer_and_the_first_error() -> None:
    assert dict(each(abs, [-3, 2, 0], at_once=2)) == {-3: 3, 2: 2, 0: 0}
    assert list(each(abs, [-3, 2], at_once=1)) == [(-3, 3), (2, 2)]
    with pytest.raises(TypeError, match="bad operand"):
        list(each(abs, ["x", "y"], at_once=2))


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"no method 'simim'.*did you mean 'simmim'"):
        Arena(data="digits", methods=("simim",))
    with pytest.raises(ConfigError, match="one seed or more"):
        Arena(data="digits", seeds=0, hardware=Hardware())
