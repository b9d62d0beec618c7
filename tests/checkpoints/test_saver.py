"""Checkpoints written behind the training: as they were at the step, one at a time, and no failure is lost."""

import os
import threading
import time
import zlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.runs import TINY
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints import write as commit
from vitrail.checkpoints.background import Saver
from vitrail.errors import StorageError
from vitrail.processes.world import World
from vitrail.training import loop

pytestmark = pytest.mark.fault

CPU = torch.device("cpu")


def slow_commit(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Commits wait until the event is set."""
    go, commit_ = threading.Event(), checkpoints.commit

    def late(*args, **kwargs):
        assert go.wait(10)
        return commit_(*args, **kwargs)

    monkeypatch.setattr(checkpoints, "commit", late)
    return go


def test_what_is_written_is_what_was_there_at_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensors change while the thread has not begun to write; the next save waits and reuses the copies."""
    go, weight = slow_commit(monkeypatch), torch.arange(6.0)
    with Saver(tmp_path, World(), CPU) as writer:
        writer.save(1, {"model": {"w": weight}}, {"step": 1}, lambda: None)
        weight += 100
        assert checkpoints.steps_in(tmp_path) == []
        go.set()
        writer.save(2, {"model": {"w": weight}}, {"step": 2}, lambda: None)
        assert checkpoints.steps_in(tmp_path)[0] == 1
    one, two = (checkpoints.read(tmp_path / f"step-0000000{step}").tensors["model"]["w"] for step in (1, 2))
    assert torch.equal(one, torch.arange(6.0)) and torch.equal(two, torch.arange(6.0) + 100)


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(commit.os, "fsync", refuse)


def test_a_full_disk_is_told_at_the_next_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Saver(tmp_path, World(), CPU) as writer:
        writer.save(1, {"model": {"w": torch.ones(3)}}, {}, lambda: None)
        writer.wait()
        with monkeypatch.context() as patched:
            full_disk(patched)
            writer.save(2, {"model": {"w": torch.ones(3)}}, {}, lambda: None)
            deadline = time.monotonic() + 10
            with pytest.raises(StorageError, match=r"step 2 could not be written .*No space left"):
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
            while not checkpoints.steps_in(tmp_path / "run/checkpoints"):
                time.sleep(0.01)  # step 3 is still being written
            full_disk(monkeypatch)

    with monkeypatch.context():
        monkeypatch.setattr(loop, "learn", fill)
        with pytest.raises(StorageError, match="No space left"):
            loop.train(TINY, out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert checkpoints.steps_in(tmp_path / "run/checkpoints") == [3]
    loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert checkpoints.steps_in(tmp_path / "run/checkpoints")[-1] == 12


def test_an_error_of_the_writer_is_told_beside_the_one_that_ended_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_disk(monkeypatch)
    with pytest.raises(ValueError, match="first") as ended, Saver(tmp_path, World(), CPU) as writer:
        writer.save(4, {"model": {"w": torch.ones(3)}}, {}, lambda: None)
        raise ValueError("first")
    assert "step 4 failed" in ended.value.__notes__[0]


KINDS = list(commit._KINDS)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3)), max_size=6), st.randoms())
def test_our_files_are_safetensors_files(tmp_path_factory, about: list, rng) -> None:
    """The published reader gives the same tensors, for every kind, shape and order."""
    path = tmp_path_factory.mktemp("file") / "x.safetensors"
    made = {
        f"{rng.random()} é": torch.randint(0, 2, shape).to(kind)
        for kind, shape in about
    }  # fmt: skip
    line = commit.write_tensors(path, made)
    read = safetensors.torch.load_file(path)
    assert line["size"] == path.stat().st_size and read.keys() == made.keys()
    for name, tensor in made.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


@pytest.mark.parametrize("length", [0, 1, 4095, 4096, 8192, 8193, 3 * 8192, 100_001])
def test_large_files_past_the_page_cache_are_the_same_files(
    length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of any filling, parts that begin anywhere; the sum is the file's, and zlib's crc32."""
    monkeypatch.setattr(commit, "LARGE", 0)
    monkeypatch.setattr(commit, "BLOCK", 8192)
    content = os.urandom(length)
    line = commit.write(tmp_path / "x", content[:13], memoryview(content)[13:5000], content[5000:])
    assert (tmp_path / "x").read_bytes() == content
    assert line == {"size": length, "crc32": f"{zlib.crc32(content):08x}"}
