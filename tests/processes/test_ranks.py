"""Several processes as one run, on CPU with gloo: same loss curve, and with `deterministic` the same bits."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.training.test_training import TINY, log, weights
from vitrail import config
from vitrail.batches.mixing import Mixing
from vitrail.checkpoints import read as checkpoints
from vitrail.errors import ConfigError
from vitrail.processes.world import World
from vitrail.training.run import Run

pytestmark = pytest.mark.flow

WORKER = """
import datetime, json, sys
from pathlib import Path
from vitrail import config
from vitrail.errors import VitrailError
from vitrail.processes import world
from vitrail.training.loop import train
from vitrail.training.run import Run
run = config.from_dict(Run, json.loads(sys.argv[2]))
world.TIMEOUT = datetime.timedelta(seconds=20)
try:
    begun = len(sys.argv) > 3
    train(None if begun else run, out=Path(sys.argv[1]), resume=begun, quiet=True)
except VitrailError as stopped:
    print(stopped, file=sys.stderr)
    sys.exit(stopped.exit_code)
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(run: Run, out: Path, size: int) -> list[subprocess.Popen]:
    """`size` processes of one run, as torchrun would start them."""
    words = [sys.executable, "-c", WORKER, str(out), json.dumps(config.to_dict(run))]
    words += ["resume"] if (out / "run.json").exists() else []
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
    return [
        subprocess.Popen(words, env=common | own | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE) for own in ranks
    ]


def train_on(run: Run, out: Path, size: int) -> Path:
    for process in launch(run, out, size):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    return out


PLAIN = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, dropout=0.0, drop_path=0.0),
    mixing=Mixing(),
    length="50 steps",
    evaluate_every="25 steps",
    save_every="25 steps",
)
ORDERED = dataclasses.replace(
    TINY, length="50 steps", hardware=dataclasses.replace(TINY.hardware, deterministic=True, micro_batch=16)
)


def test_two_ranks_learn_the_curve_of_one(tmp_path: Path) -> None:
    """Default DDP: batch size and learning rate keep their meaning; losses within 1e-5 of one rank's over 50 steps."""
    one, two = (log(train_on(PLAIN, tmp_path / str(size), size)) for size in (1, 2))
    assert len(one) == len(two)
    for row, other in zip(one, two, strict=True):
        for name in ("loss", "grad_norm", "held_out_nll"):
            if name in row:
                assert other[name] == pytest.approx(row[name], rel=1e-5 if name == "loss" else 1e-3)


def test_one_two_and_four_ranks_give_the_same_bits_where_asked(tmp_path: Path) -> None:
    """Dropout, stochastic depth, mixup, cutmix and the average on; 50 steps of four micro-batches."""
    runs = [weights(train_on(ORDERED, tmp_path / str(size), size)) for size in (1, 2, 4)]
    for other in runs[1:]:
        assert [name for name in runs[0] if not torch.equal(runs[0][name], other[name])] == []


def test_a_run_of_two_ranks_stops_on_a_signal_and_resumes_on_one_to_the_same_bits(tmp_path: Path) -> None:
    whole = weights(train_on(ORDERED, tmp_path / "whole", 1))
    folder = tmp_path / "stopped"
    processes = launch(ORDERED, folder, 2)
    while not (folder / "checkpoints").is_dir():
        assert all(process.poll() is None for process in processes)
    processes[1].terminate()  # one rank is asked, all stop
    codes = [process.wait(timeout=60) for process in processes]
    for process in processes:
        process.communicate()
    assert codes == [143, 143] or codes == [0, 0]
    resumed = weights(train_on(ORDERED, folder, 1))
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_rank_that_dies_or_stalls_ends_all_and_nothing_is_lost(how: int, tmp_path: Path) -> None:
    """The other rank exits by itself, soon after a death, at the time limit after a silence; the run resumes."""
    folder = tmp_path / "run"
    processes = launch(dataclasses.replace(ORDERED, length="400 steps"), folder, 2)
    try:
        while not checkpoints.steps_in(folder / "checkpoints"):
            assert all(process.poll() is None for process in processes)
            time.sleep(0.01)
        processes[1].send_signal(how)
        began = time.monotonic()
        _, said = processes[0].communicate(timeout=100)
        assert time.monotonic() - began < (15 if how == signal.SIGKILL else 60)
        assert processes[0].returncode == 70 and b"lost the others" in said, said.decode()[-2000:]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert checkpoints.newest(folder / "checkpoints", say=pytest.fail) is not None


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide among 3 processes"):
        World(0, 3).share(64)


def test_shares_cover_everything_once() -> None:
    for size in (1, 2, 3, 4, 7):
        covered = [index for rank in range(size) for index in World(rank, size).slice(100)]
        assert covered == list(range(100))
