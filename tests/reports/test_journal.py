"""The journal survives what happens to it: torn lines, resumes, full disks, numbers JSON has no word for."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.errors import ConfigError, StorageError
from vitrail.reports import journal
from vitrail.reports.journal import Journal, read
from vitrail.reports.trackers import log_to_tensorboard


def test_rows_come_back_as_they_went_in(tmp_path):
    log = Journal(tmp_path / "run" / "metrics.jsonl")
    log.append(
        {"step": 1, "loss": torch.tensor(0.5), "accuracy": np.float32(0.25), "name": "épreuve", "lr": [1e-3, 2.0]}
    )
    assert read(log.path) == [{"step": 1, "loss": 0.5, "accuracy": 0.25, "name": "épreuve", "lr": [1e-3, 2.0]}]


def test_what_is_not_finite_becomes_null_and_every_line_is_strict_json(tmp_path):
    log = Journal(tmp_path / "m.jsonl")
    log.append({"a": float("nan"), "b": torch.tensor(float("inf")), "c": {"d": [-np.inf, 1.0]}})
    strict = json.loads(log.path.read_text(), parse_constant=lambda word: pytest.fail(word))
    assert strict == {"a": None, "b": None, "c": {"d": [None, 1.0]}}


@given(cut=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_a_file_cut_anywhere_loses_only_the_cut_line_and_goes_on_cleanly(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "m.jsonl"
    log = Journal(path)
    rows = [{"step": step, "loss": step / 7} for step in range(5)]
    for row in rows:
        log.append(row)
    os.truncate(path, min(cut, path.stat().st_size))
    whole = read(path)
    assert whole == rows[: len(whole)]
    Journal(path).append({"step": 99})
    assert read(path) == [*whole, {"step": 99}]


def test_zeros_left_by_a_power_cut_are_a_torn_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"step": 1}\n' + bytes(50))
    Journal(path).append({"step": 2})
    assert read(path) == [{"step": 1}, {"step": 2}]


def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(StorageError, match="line 2 is not a JSON object: 'nonsense'"):
        read(path)


def test_rewind_drops_what_came_after_the_step_and_keeps_rows_without_one(tmp_path):
    log = Journal(tmp_path / "m.jsonl")
    for row in ({"note": "begin"}, {"step": 1}, {"step": 2}, {"step": 3}):
        log.append(row)
    log.rewind(2)
    log.sync()
    assert read(log.path) == [{"note": "begin"}, {"step": 1}, {"step": 2}]
    assert os.listdir(tmp_path) == ["m.jsonl"]


def test_a_crash_while_rewinding_leaves_the_old_file(tmp_path, monkeypatch):
    log = Journal(tmp_path / "m.jsonl")
    log.append({"step": 1})
    log.append({"step": 2})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(journal.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        log.rewind(1)
    assert read(log.path) == [{"step": 1}, {"step": 2}] and os.listdir(tmp_path) == ["m.jsonl"]


def test_a_full_disk_leaves_whole_lines_and_says_so(tmp_path):
    """A file-size limit stands in for the disk: the write fails in the middle of the line."""
    code = """
import signal, resource, sys
from vitrail.reports.journal import Journal
from vitrail.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = Journal(sys.argv[1])
log.append({"step": 1})
resource.setrlimit(resource.RLIMIT_FSIZE, (20, 20))
try:
    log.append({"step": 2, "text": "x" * 100})
except StorageError as error:
    print(error)
"""
    path = tmp_path / "m.jsonl"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "m.jsonl" in done.stdout and "free space" in done.stdout
    assert path.read_bytes() == b'{"step": 1}\n'
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 20


def test_a_missing_journal_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"none\.jsonl: No such file"):
        read(tmp_path / "none.jsonl")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_gets_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    journal = Journal(tmp_path / "m.jsonl", callbacks=[log_to_tensorboard(tmp_path)])
    for step in (10, 20):
        journal.append({"step": step, "train/loss": 1 / step, "note": "text is left out", "bad": float("nan")})
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [(e.step, round(e.value, 6)) for e in events.Scalars("train/loss")] == [(10, 0.1), (20, 0.05)]


def test_tensorboard_that_is_not_installed_says_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard.writer", None)
    with pytest.raises(ConfigError, match=r"pip install 'vitrail\[tensorboard\]'"):
        log_to_tensorboard(tmp_path)


def test_a_rank_without_a_log_writes_to_the_null_device() -> None:
    journal = Journal(os.devnull)
    journal.append({"step": 1})
    journal.rewind(0)
    assert read(os.devnull) == []


def test_a_log_that_is_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "metrics.jsonl")
    with pytest.raises(StorageError, match="it is a pipe, not a file"):
        Journal(tmp_path / "metrics.jsonl")
