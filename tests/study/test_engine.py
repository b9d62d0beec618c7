"""The engine: what was measured stands; the same command goes on, adds what is new, and refuses another question."""

import dataclasses
import functools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.dying import die_at, die_once
from tests.support.objectives import TINY
from tests.support.stopping import stopped_at
from vitrail import study
from vitrail.cli import main
from vitrail.errors import ConfigError, DataError, Preempted, RunInUse
from vitrail.evaluation.feature_set import labelled
from vitrail.images.sources import open_data
from vitrail.recipes.request import Given
from vitrail.reports.tables import Table
from vitrail.storage import hold_lock
from vitrail.study.cells import Cell, Row, Stage, flops_of, open_labelled, unit_of
from vitrail.study.engine import open_study
from vitrail.study.questions import Grid
from vitrail.study.readouts import READOUTS, Trained
from vitrail.study.report import Answer
from vitrail.study.variations import is_read, plan
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


def test_a_value_that_is_named_twice_is_one_task_and_tasks_may_be_worth_nothing(tmp_path: Path) -> None:
    asked: list[str] = []
    with open_study(tmp_path, "letters", {}, Row) as letters:
        found = letters.run(["a", "b", "a"], lambda name: asked.append(name) or row(name), worth=lambda name: 0.0)
    assert asked == ["a", "b"] and len(list(found)) == 2
    few = dataclasses.replace(TINY, length="1 epoch", batch_size=128)
    assert flops_of(few, Given(images=10, classes=10, shape=(8, 8, 1))) > 0  # a training has one step at least


@pytest.mark.parametrize("part", ["train", "val", "test"])
def test_other_images_are_other_cells(tmp_path: Path, part: str) -> None:
    for name in [f"{one}/{animal}" for one in ("train", "val", "test") for animal in ("cat", "dog")]:
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), "red").save(tmp_path / "photos" / name / "0.png")
    shutil.copytree(tmp_path / "photos", tmp_path / "others")

    def keys() -> list[str]:
        open_labelled.cache_clear()  # as each call of a study does
        run, others = dataclasses.replace(TINY, data=str(tmp_path / "photos")), str(tmp_path / "others")
        stages = Stage(run=run), Stage(run=TINY, readouts=(f"5-shot@{others}",))
        return [Cell(place={"seed": 0}, stages=(stage,)).key for stage in stages]

    before = keys()
    for folder in ("photos", "others"):
        noise = np.random.default_rng(0).integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / folder / part / "cat/0.png")
    assert all(old != new for old, new in zip(before, keys(), strict=True))


def planned(**asked: Any) -> list[str]:
    """Why each cell of a grid is refused; empty for one that can be trained."""
    return [cell.refused for cell in plan(Grid(data="digits", seeds=1, device="cpu", **asked))]


def test_a_cell_that_cannot_be_trained_says_why_and_the_others_stay() -> None:
    said, good = planned(vary={"images": [0.1, 50.0]}, fixed={"epochs": 1})
    assert said == "images = 0.1; allowed: a whole number of training images" and not good
    said, good = planned(vary={"weights": ["nowhere", ""]}, fixed={"epochs": 1})
    assert said.startswith("there is nothing at nowhere") and not good


def test_each_readout_is_shown_and_one_that_cannot_be_is_named() -> None:
    shown = ["images_per_s", "memory@digits", "1 px right", "shuffled patches", "5-shot@digits", "validation"]
    assert all(map(is_read, shown)) and not any(map(is_read, ["accuracy", "images", "flops", "seconds"]))
    assert unit_of("memory@digits") == ("memory MB@digits", 1e-6, "{:,.0f}") and not unit_of("5-shot@digits")
    trained = Trained("nowhere", open_data("digits"))
    few = labelled(torch.zeros(2, 3), torch.tensor([0, 2]), 10)
    trained.__dict__["features"] = few, few
    with pytest.raises(DataError, match=r"5-shot: none of 2 training images of digits is of the class '1'"):
        READOUTS["5-shot"](trained)


def test_options_that_are_typed_go_before_those_of_a_file(in_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (in_folder / "g.toml").write_text(
        'data = "digits"\nseeds = 2\nat_once = 2\n[vary]\nlr = [1e-3]\nimages = [50]\n[fixed]\nepochs = 1\n'
    )
    asked: list[Grid] = []
    nothing = Answer([], Table((), ()), "", Path("report.html"))
    monkeypatch.setattr("vitrail.study.answer", lambda question: asked.append(question) or nothing)
    assert main(["study", "grid", "g.toml", "--seeds", "1", "--vary", "lr=1,2", "--set", "images=9"]) == 0
    (found,) = asked
    assert (found.data, found.seeds, found.at_once) == ("digits", 1, 2)
    assert found.vary == {"lr": [1, 2]} and found.fixed == {"epochs": 1, "images": 9}


KINDS = [
    ({"vary": 5}, "5 in place of names and their values; allowed: a dict"),
    ({"vary": {"lr": 1}, "seeds": "3"}, "seeds = '3', a str; allowed: a whole number"),
    ({"vary": {"lr": 1}, "readouts": "5-shut"}, "did you mean '5-shot'"),
]


@pytest.mark.parametrize(("settings", "said"), KINDS)
def test_the_functions_take_images_first_and_refuse_other_kinds(
    in_folder: Path, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        study.grid("digits", **settings)


def test_the_functions_take_lists_arrays_paths_and_single_values(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitrail.study.answer", lambda question: question)
    found: Any = study.grid(Path("digits"), vary={"model": "vit-ti/4", "lr": np.array([1.0, 2.0])}, readouts="linear")
    assert found == Grid(data="digits", vary={"model": ("vit-ti/4",), "lr": (1.0, 2.0)}, readouts=("linear",))
    assert hash(study.transfer("digits", models=[Path("runs/a")], rates=[1.0]))
    with pytest.raises(ConfigError, match="which = 'position', a str; allowed: 'positions'"):
        study.ablation("digits", which="position")


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
        (["--vary", "lr=1", "--vary", "lr=2"], "lr is named twice"),
        (["--vary", "lr=1", "--set", "images=50,1000"], "images is fixed and has 2 values"),
        (["--vary", "threads=1,2"], "threads is no value of a cell"),
        (["--vary", "seed=5,6"], "seed is no value of a cell"),
        (["--vary", "lr=1", "--set", "holdout=0.5"], "holdout is no value of a cell"),
        (["--vary", "epochs=1,2", "--set", "length=3 epochs"], "epochs and length are one value"),
    ],
)
def test_what_cannot_be_asked(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "grid", "digits", *words]) == 78
    assert said in capsys.readouterr().err
