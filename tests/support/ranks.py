"""One run as several processes."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tests.support.runs import TINY
from vitrail import config
from vitrail.batches.mixing import Mixing
from vitrail.models import zoo
from vitrail.training.run import Run

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
    for process in launch(run, out, size):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors.decode()[-2000:]
    return out
