"""The environment changes nothing: clocks, locales, hash seeds, folders, masks, what the generators did before."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.ranks import ROOT
from tests.support.runs import TINY, assert_same_run
from tests.support.trials import in_child, train_to_the_end
from vitrail import config

pytestmark = pytest.mark.fault

TOGETHER = {"PYTHONHASHSEED": "12345", "TZ": "Asia/Kathmandu", "LC_ALL": "tr_TR.UTF-8",
            "HOME": "/nowhere", "HOSTNAME": "elsewhere", "COLUMNS": "20", "TERM": "dumb"}  # fmt: skip
ALONE = [
    *({name: value} for name, value in TOGETHER.items()),
    *({"PYTHONHASHSEED": str(seed)} for seed in (0, 1, 4294967295)),
    {"PYTHONOPTIMIZE": "1"},  # compiles all of torch once more
    {"TZ": "Pacific/Apia"}, {"LC_ALL": "C"}, {"LANG": "de_DE.UTF-8", "LC_NUMERIC": "de_DE.UTF-8"}, {"PYTHONUTF8": "0"},
    {"PYTHONMALLOC": "debug"}, {"SOURCE_DATE_EPOCH": "1"}, {"USER": "nobody"}, {"OMP_WAIT_POLICY": "active"},
    {"MALLOC_ARENA_MAX": "1"},
]  # fmt: skip


def elsewhere(environment: dict[str, str], out: Path, cwd: Path) -> None:
    """The run in a process of its own."""
    words = [sys.executable, "-m", "tests.support.rank", str(out), json.dumps(config.to_dict(TINY))]
    found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        words,
        env={**os.environ, "PYTHONPATH": found, **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def jumping_clock() -> None:
    """Every look at the clock jumps, by up to four months either way."""
    rng = random.Random(0)
    for name in ("time", "monotonic", "perf_counter"):
        really = getattr(time, name)
        setattr(time, name, lambda really=really: really() + rng.uniform(-1e7, 1e7))


def other_zone() -> None:
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()


def used_generators() -> None:
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    torch.randn(99)


def other_folder() -> None:
    os.chdir("/")
    os.umask(0o077)


def open_mask() -> None:
    os.umask(0)


def deep_stack() -> None:
    sys.setrecursionlimit(20_000)
    sys.setswitchinterval(1e-5)


CHANGES = [jumping_clock, other_zone, used_generators, other_folder, open_mask, deep_stack]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_nothing_about_the_process_matters(change: Callable[[], None], whole_run, memory: Path) -> None:
    folder = memory / change.__name__

    def work() -> None:
        change()
        train_to_the_end(folder)()

    assert os.waitpid(in_child(work), 0)[1] == 0
    assert_same_run(whole_run[0], folder)


def test_no_variable_of_the_environment_matters(whole_run, memory: Path, sweep: int, tmp_path: Path) -> None:
    """All at once; each alone, 20 of them, under `make deep`."""
    for index, environment in enumerate([TOGETHER, *(ALONE if sweep > 1 else [])]):
        elsewhere(environment, memory / f"environment-{index}", tmp_path)
        assert_same_run(whole_run[0], memory / f"environment-{index}")
    print(f"{index + 1} environments and {len(CHANGES)} states of the process, the bits of one run")
