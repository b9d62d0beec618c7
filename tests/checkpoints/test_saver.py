"""Checkpoints written behind the training: as they were at the step, one at a time, and no failure is lost."""

import os
import threading
import time
from pathlib import Path

import pytest
import torch

from tests.support.runs import TINY
from vitrail.checkpoints import background, write
from vitrail.checkpoints.background import Saver
from vitrail.checkpoints.read import read
from vitrail.errors import StorageError
from vitrail.processes.world import World
from vitrail.training import loop

pytestmark = pytest.mark.fault

CPU = torch.device("cpu")


def slow_commit(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits wait until the event is set."""
    go, commit = threading.Event(), background.commit

    def late(*args, **kwargs):
        assert go.wait(10)
        return commit(*args, **kwargs)

    monkeypatch.setattr(background, "commit", late)
    return go


def test_what_is_written_is_what_was_there_at_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors change while the thread has not begun to write; the next save waits and reuses the copies."""
    go, weight = slow_commit(monkeypatch), torch.arange(6.0)
    with Saver(tmp_path, World(), CPU) as writer:
        writer.save(1, {"model": {"w": weight}}, {"step": 1}, lambda: None)
        weight += 100
        assert write.list_steps(tmp_path) == []
        go.set()
        writer.save(2, {"model": {"w": weight}}, {"step": 2}, lambda: None)
        assert write.list_steps(tmp_path)[0] == 1
    one, two = (read(tmp_path / f"step-0000000{step}").tensors["model"]["w"] for step in (1, 2))
    assert torch.equal(one, torch.arange(6.0)) and torch.equal(two, torch.arange(6.0) + 100)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)


def test_a_full_disk_is_told_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Saver(tmp_path, World(), CPU) as writer:
        writer.save(1, {"model": {"w": torch.ones(3)}}, {}, lambda: None)
        writer.wait()
        with monkeypatch.context() as patched:
            full_disk(patched)
            writer.save(2, {"model": {"w": torch.ones(3)}}, {}, lambda: None)
            deadline = time.monotonic() + 10
            with pytest.raises(StorageError, match=r"step-00000002 could not be written .*No space left"):
                while time.monotonic() < deadline:
                    writer.check()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_a_full_disk_stops_a_run_which_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn = loop.learn

    def fill(setup, state, *rest):
        learn(setup, state, *rest)
        if state.step == 5:
            while not write.list_steps(tmp_path / "run/checkpoints"):
                time.sleep(0.01)  # step 3 is still being written
            full_disk(monkeypatch)

    with monkeypatch.context():
        monkeypatch.setattr(loop, "learn", fill)
        with pytest.raises(StorageError, match="No space left"):
            loop.train(TINY, out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert write.list_steps(tmp_path / "run/checkpoints") == [3]
    loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert write.list_steps(tmp_path / "run/checkpoints")[-1] == 12


def test_an_error_of_the_writer_is_told_beside_the_one_that_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    with pytest.raises(ValueError, match="first") as ended, Saver(tmp_path, World(), CPU) as writer:
        writer.save(4, {"model": {"w": torch.ones(3)}}, {}, lambda: None)
        raise ValueError("first")
    assert "step 4 failed" in ended.value.__notes__[0]
