"""Several processes as one run, on CPU with gloo: same loss curve, and with `deterministic` the same bits."""

import contextlib
import dataclasses
import datetime
import os
import signal
import time
from pathlib import Path

import pytest
import torch

from tests.support.ranks import MIXED, ORDERED, codes, launch, start, train_on, trained
from tests.support.runs import log, weights
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints.write import list_steps
from vitrail.errors import ConfigError
from vitrail.processes.world import World
from vitrail.training.setup import prepare

pytestmark = pytest.mark.flow


def test_two_ranks_learn_the_curve_of_one(tmp_path: Path) -> None:
    """Default DDP: batch size and learning rate keep their meaning; losses within 1e-5 of one rank's over 20 steps,
    with mixup, CutMix and stochastic depth. The two are programs of their own, as torchrun starts them.
    """
    one, two = log(trained(MIXED, tmp_path / "1", 1)), log(train_on(MIXED, tmp_path / "2", 2))
    assert len(one) == len(two)
    for row, other in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "held_out_nll"):
            if name in row:
                assert other[name] == pytest.approx(row[name], rel=1e-5 if name == "loss" else 1e-3)


def test_one_two_and_four_ranks_give_the_same_bits_where_asked(tmp_path: Path, sweep: int) -> None:
    """Dropout, stochastic depth, mixup, cutmix and the average on; four micro-batches. One rank against two: `make deep`."""
    sizes = (1, 2, 4) if sweep > 1 else (1, 4)
    runs = [weights(trained(ORDERED, tmp_path / str(size), size)) for size in sizes]
    for other in runs[1:]:
        assert [name for name in runs[0] if not torch.equal(runs[0][name], other[name])] == []


@pytest.mark.deep
def test_a_run_of_two_ranks_stops_on_a_signal_and_resumes_on_one_to_the_same_bits(tmp_path: Path) -> None:
    whole = weights(trained(ORDERED, tmp_path / "whole", 1))
    folder = tmp_path / "stopped"
    processes = launch(ORDERED, folder, 2)
    while not (folder / "checkpoints").is_dir():
        assert all(process.poll() is None for process in processes)
    processes[1].terminate()  # one rank is asked, all stop
    codes = [process.wait(timeout=60) for process in processes]
    for process in processes:
        process.communicate()
    assert codes == [143, 143] or codes == [0, 0]
    resumed = weights(trained(ORDERED, folder, 1))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGSTOP, marks=pytest.mark.deep)])
def test_a_rank_that_dies_or_stalls_ends_all_and_nothing_is_lost(how: int, tmp_path: Path, monkeypatch) -> None:
    """The other rank exits by itself, soon after a death, at the time limit after a silence; the run resumes."""
    monkeypatch.setattr("vitrail.processes.world.TIMEOUT", datetime.timedelta(seconds=30))
    folder = tmp_path / "run"
    waits, lost = ranks = start(dataclasses.replace(ORDERED, length="400 steps"), folder, 2)
    try:
        while not list_steps(folder / "checkpoints"):
            assert os.waitpid(waits.pid, os.WNOHANG) == (0, 0), waits.said
            time.sleep(0.01)
        os.kill(lost.pid, how)
        assert codes([waits]) == [70] and "lost the others" in waits.said, waits.said[-2000:]
    finally:
        for rank in ranks:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(rank.pid, signal.SIGKILL)
                os.waitpid(rank.pid, 0)
    assert checkpoints.newest(folder / "checkpoints", say=pytest.fail) is not None


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide among 3 processes"):
        World(0, 3).share(64)


def test_images_that_are_mixed_lie_on_one_process() -> None:
    run = dataclasses.replace(MIXED, batch_size=6)
    with pytest.raises(ConfigError, match=r"parts pairs that are mixed, 3 images each; allowed: multiples of 4"):
        prepare(run, World(0, 2))


def test_shares_cover_everything_once() -> None:
    for size in (1, 2, 3, 4, 7):
        covered = [index for rank in range(size) for index in World(rank, size).slice(100)]
        assert covered == list(range(100))
