"""The engine: what was measured stands; the same command goes on, adds what is new, and refuses another question."""

import functools
import json
import os
from pathlib import Path

import pytest

from tests.support.dying import die_at, die_once
from tests.support.stopping import stopped_at
from vitrail import study
from vitrail.cli import main
from vitrail.errors import ConfigError, Preempted, RunInUse
from vitrail.storage import hold_lock
from vitrail.study.cells import Row
from vitrail.study.engine import open_study
from vitrail.study.report import Answer
from vitrail.study.workers import KILLED, Failure, each

pytestmark = pytest.mark.flow

ROOT = Path(__file__).parents[2]
RUN = {
    "model.width": 32, "model.depth": 1, "model.heads": 2, "model.mlp_width": 32, "length": "4 steps",
    "ema": None, "batch": 32, "images": 100,
}  # fmt: skip


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def told(folder: Path) -> dict[str, tuple]:
    """The numbers of each cell, without its seconds."""
    return {line["key"]: [{**row["numbers"], "seconds": 0} for row in line["results"]] for line in lines(folder)}


def ask(folder: str, rates: list[float], seeds: int = 1, **more) -> Answer:
    more = {"at_once": 1, "device": "cpu", "workers": 0, **more}
    return study.grid(data="digits", out=folder, vary={"optim.lr": rates}, fixed=RUN, seeds=seeds, **more)


def row(name: str) -> list[Row]:
    return [Row(place={"name": name}, numbers={"accuracy": 0.5})]


def test_an_error_is_an_answer_and_the_rest_go_on(tmp_path: Path) -> None:
    def work(name: str) -> list[Row]:
        if name == "b":
            raise ConfigError("b cannot be", next_step="leave it out")
        return row(name)

    with open_study(tmp_path, "letters", {}, Row) as letters:
        found = letters.run(["a", "b", "c"], work)
        assert list(found.rows) == ["a", "c"] and found.failed == {"b": Failure("b cannot be; leave it out", 78)}
        again = letters.run(["a", "b", "c", "d"], lambda name: row(name + name))  # the failed one is tried again
    assert [one["name"] for one in again] == ["a", "bb", "c", "dd"] and not again.failed


def test_a_folder_answers_one_question_to_one_process(tmp_path: Path) -> None:
    with open_study(tmp_path, "letters", {"size": 3}, Row):
        pass
    with pytest.raises(ConfigError, match=r"other settings: size 3, not 4; choose another `out`"):
        open_study(tmp_path, "letters", {"size": 4}, Row).__enter__()
    with pytest.raises(ConfigError, match="study 'letters', not 'words'"):
        open_study(tmp_path, "words", {"size": 3}, Row).__enter__()
    with hold_lock(tmp_path / ".lock"), pytest.raises(RunInUse, match="another process works on the study"):
        open_study(tmp_path, "letters", {"size": 3}, Row).__enter__()


def test_a_torn_last_line_is_measured_again_and_other_damage_is_named(tmp_path: Path) -> None:
    with open_study(tmp_path, "letters", {}, Row) as letters:
        letters.run(["a", "b"], row)
    path = tmp_path / "results.jsonl"
    whole = path.read_text()
    path.write_text(whole[: 3 * len(whole) // 4])
    asked: list[str] = []
    with open_study(tmp_path, "letters", {}, Row) as letters:
        letters.run(["a", "b"], lambda name: asked.append(name) or row(name))
    assert asked == ["b"] and path.read_text() == whole


def test_only_what_is_missing_is_trained(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ask("grid", [1e-3])
    first = told(in_folder / "grid")
    wider = ask("grid", [1e-3, 3e-3], seeds=2)
    assert len(wider.rows) == 4 and {k: v for k, v in told(in_folder / "grid").items() if k in first} == first
    monkeypatch.setattr("vitrail.study.cells.train", pytest.fail)
    assert ask("grid", [1e-3, 3e-3], seeds=2).table == wider.table
    assert not list((in_folder / "grid/cells").iterdir())  # runs lie there until they are measured
    with pytest.raises(ConfigError, match=r"other settings: fixed"):
        study.grid(data="digits", out=Path("grid"), vary={"optim.lr": [1e-3]}, fixed={"length": "5 steps"})


def test_stopped_by_a_signal_it_goes_on_to_the_same_results(in_folder: Path) -> None:
    ask("whole", [1e-3, 3e-3])
    with stopped_at(2), pytest.raises(Preempted, match="the same command goes on from there"):
        ask("halved", [1e-3, 3e-3])
    ask("halved", [1e-3, 3e-3])
    assert told(in_folder / "halved") == told(in_folder / "whole")


def test_side_by_side_equals_one_after_the_other(in_folder: Path) -> None:
    ask("alone", [1e-3, 3e-3])
    ask("wide", [1e-3, 3e-3], at_once=2)
    assert told(in_folder / "wide") == told(in_folder / "alone")


def test_a_killed_process_costs_its_own_cell_only() -> None:
    found = dict(each(functools.partial(die_at, 2), [0, 1, 2, 3], at_once=2))
    assert found == {0: 0, 1: -1, 2: KILLED, 3: -3}
    assert next(each(abs, ["x"]))[1].why.startswith("TypeError: bad operand")


@pytest.mark.deep
def test_ray_equals_local_and_a_killed_worker_s_cell_runs_again(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray", reason="needs the extra ray")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))  # die_once
    ask("alone", [1e-3, 3e-3])
    ask("ray", [1e-3, 3e-3], ray="local")
    assert told(in_folder / "ray") == told(in_folder / "alone")
    found = dict(each(functools.partial(die_once, in_folder / "died"), [0, 1], ray="local"))
    assert found == {0: 0, 1: -1} and (in_folder / "died").exists()


def test_the_command_reports_what_failed_and_shows_the_rest(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (in_folder / "grid.toml").write_text(
        'data = "digits"\nseeds = 1\n[vary]\nimages = [100, 5000]\n[fixed]\n'
        + "".join(
            f"{json.dumps(name)} = {json.dumps(value)}\n" for name, value in RUN.items() if value and name != "images"
        )
    )
    assert main(["study", "grid", "grid.toml", "--json", "--device", "cpu", "--at-once", "1"]) == 65
    said = capsys.readouterr()
    assert [one["images"] for one in json.loads(said.out)] == [100]
    assert "failed: images 5000, seed 0: 5,000 images of digits; allowed: 1 to 1,438" in said.err
    assert "1 cell failed; no number counts them" in said.err
    page = (in_folder / "runs/grid-digits/report.html").read_text()
    assert "What this shows, and what it does not" in page and "Failed cells" in page
    assert (in_folder / "runs/grid-digits/table.csv").read_text().startswith("images,accuracy %")
    names = {path.name for path in (in_folder / "runs/grid-digits/figures").iterdir()}
    assert {"accuracy-light.svg", "accuracy-dark.png", "accuracy.csv"} <= names


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing varies; name a value of a run, such as optim.lr, and two values of it in --vary"),
        (["--vary", "optim.lr"], "'optim.lr' names no value; allowed: NAME=VALUE"),
        (["--vary", "lr=1", "--set", "lr=2"], "lr is fixed and varies"),
        (["--vary", "lr=1e-3", "--seeds", "0"], "one seed or more"),
    ],
)
def test_what_cannot_be_asked(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "grid", "digits", *words]) == 78
    assert said in capsys.readouterr().err
