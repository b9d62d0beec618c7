"""One run as several processes: forked from this one, which is warm, or started as torchrun would."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.runs import TINY, no_report, stop_after
from vitrail import config
from vitrail.batches.mixing import Mixing
from vitrail.models import zoo
from vitrail.training import loop
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
PLAIN = dataclasses.replace(
    TINY,
    model=zoo.change(TINY.model, dropout=0.0, drop_path=0.0),
    mixing=Mixing(),
    length="20 steps",
    evaluate_every="10 steps",
    save_every="10 steps",
)
MIXED = dataclasses.replace(PLAIN, model=zoo.change(PLAIN.model, drop_path=0.4), mixing=Mixing(mixup=0.2, cutmix=1.0))
ORDERED = dataclasses.replace(
    TINY, length="20 steps", hardware=dataclasses.replace(TINY.hardware, deterministic=True, micro_batch=16)
)


@dataclass(frozen=True)
class Rank:
    """A forked process, and the file that what it prints goes to."""

    pid: int
    printed: Path

    @property
    def said(self) -> str:
        return self.printed.read_text()


def fork(work: Callable[[int], object], size: int, said: Path) -> list[Rank]:
    """`size` ranks of one world, children of this warm process: each does `work(rank)`. Their output is kept beside `said`."""
    port = free_port()
    ranks = [Rank(0, said.with_name(f"{said.name}-rank-{rank}.txt")) for rank in range(size)]
    return [dataclasses.replace(one, pid=_fork(work, rank, size, port, one.printed)) for rank, one in enumerate(ranks)]


def _fork(work: Callable[[int], object], rank: int, size: int, port: int, printed: Path) -> int:
    pid = os.fork()
    if pid == 0:
        file = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), WORLD_SIZE=str(size))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        try:
            work(rank)
            os._exit(0)
        except BaseException as error:
            os.write(2, traceback.format_exc().encode())
            os._exit(getattr(error, "exit_code", 99))
    return pid


def codes(ranks: list[Rank]) -> list[int]:
    """Waits; the exit code of each, or minus the signal."""
    return [os.waitstatus_to_exitcode(os.waitpid(rank.pid, 0)[1]) for rank in ranks]


def assert_done(ranks: list[Rank], code: int = 0) -> None:
    assert set(codes(ranks)) == {code}, "\n".join(rank.said[-3000:] for rank in ranks)


def start(run: Run, out: Path, size: int, stop: int = 0) -> list[Rank]:
    """Ranks that train or go on with a run, asked to stop after step `stop`."""
    import torch.distributed.checkpoint
    import torch.distributed.fsdp  # once here, so that the children start warm  # noqa: F401

    out.parent.mkdir(exist_ok=True)
    resume = (out / "run.json").exists()
    if resume:  # its model was resolved from the data
        run = dataclasses.replace(RunFolder.read(out), hardware=run.hardware)

    def work(rank: int) -> None:
        with no_report(), pytest.MonkeyPatch.context() as patched:
            if stop:
                stop_after(stop, patched)
            loop.train(run, out=out, resume=resume, quiet=True)

    return fork(work, size, out)


def trained(run: Run, out: Path, size: int, stop: int = 0) -> Path:
    assert_done(start(run, out, size, stop), 143 if stop else 0)
    return out


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch(run: Run, out: Path, size: int, *words: str) -> list[subprocess.Popen]:
    """`size` processes of one run, as torchrun would start them; `words` go to `tests.support.rank`."""
    program = [sys.executable, "-m", "tests.support.rank", str(out), json.dumps(config.to_dict(run)), *words]
    program += ["--resume"] if (out / "run.json").exists() else []
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": str(size)}
    return [
        subprocess.Popen(
            program,
            cwd=ROOT,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
        )
        for rank in range(size)
    ]


def train_on(run: Run, out: Path, size: int) -> Path:
    """The run by programs of their own, to its end."""
    for process in launch(run, out, size):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    return out
