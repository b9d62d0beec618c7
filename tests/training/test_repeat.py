"""A run is repeated by its settings, resumed from elsewhere, and followed from Python."""

import dataclasses
import json
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.runs import TINY, assert_same_run, log, stop_after
from tests.training.test_small_folders import SMALL, write
from vitrail.api.request import choose_run, read_like
from vitrail.errors import ConfigError, DataError, Preempted
from vitrail.reports.trackers import log_to_mlflow, log_to_wandb
from vitrail.training import loop

pytestmark = pytest.mark.flow


def test_a_run_resumes_from_another_directory_and_with_moved_images(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "home/photos", dark=40, light=40)
    monkeypatch.chdir(tmp_path / "home")
    run = dataclasses.replace(SMALL, data="photos", length="8 steps")
    loop.train(run, out=tmp_path / "whole", quiet=True)
    with monkeypatch.context() as patched:
        stop_after(3, patched)
        with pytest.raises(Preempted):
            loop.train(run, out=tmp_path / "stopped", quiet=True)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tmp_path / "stopped", tmp_path / "moved")
    loop.train(None, out=tmp_path / "stopped", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    (tmp_path / "home/photos").rename(tmp_path / "elsewhere")
    stored = json.loads((tmp_path / "moved/run.json").read_text())
    assert stored["data"] == str(tmp_path / "home/photos")
    again = dataclasses.replace(loop.RunFolder.read(tmp_path / "moved"), data="elsewhere")
    loop.train(again, out=tmp_path / "moved", resume=True, quiet=True)
    assert_same_run(tmp_path / "whole", tmp_path / "moved")
    write(tmp_path / "other", dark=40, light=39)
    with pytest.raises(DataError, match="changed since the checkpoint"):
        loop.train(dataclasses.replace(again, data="other"), out=tmp_path / "moved", resume=True, quiet=True)


def test_the_settings_of_a_run_are_taken_whole_and_single_ones_changed(tmp_path: Path) -> None:
    folder = loop.train(dataclasses.replace(TINY, length="1 step", seed=3), out=tmp_path / "run", quiet=True).folder
    chosen = choose_run("digits", like=folder, changes={"lr": 0.5})
    kept = dataclasses.replace(
        chosen.run, hardware=TINY.hardware, model=TINY.model, optim=TINY.optim, objective=TINY.objective
    )
    assert kept == dataclasses.replace(TINY, length="1 step", seed=3)
    assert chosen.run.optim == dataclasses.replace(TINY.optim, lr=0.5)
    assert read_like(folder / "run.json") == read_like(folder)
    with pytest.raises(ConfigError, match="their own recipe"):
        choose_run("digits", like=folder, recipe="digits")


def test_callbacks_get_every_row_of_the_log(tmp_path: Path) -> None:
    rows: list = []
    loop.train(TINY, out=tmp_path / "run", quiet=True, callbacks=[rows.append])
    assert [(row["step"], row.get("loss")) for row in rows] == [
        (row["step"], row.get("loss")) for row in log(tmp_path / "run")
    ]


def test_mlflow_and_wandb_get_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list = []
    mlflow = SimpleNamespace(
        start_run=lambda run_name: got.append(run_name),
        log_metrics=lambda numbers, step: got.append((numbers, step)),
    )
    wandb = SimpleNamespace(init=lambda **words: SimpleNamespace(log=lambda numbers, step: got.append((numbers, step))))
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    row = {"step": 5, "loss": 0.5, "ledger": "00ff"}
    log_to_mlflow("photos")(row)
    log_to_wandb("project")(row)
    assert got == ["photos", ({"loss": 0.5}, 5), ({"loss": 0.5}, 5)]
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install .vitrail\[wandb\]"):
        log_to_wandb("project")
