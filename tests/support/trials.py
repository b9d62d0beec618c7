"""Trials in forked children: a warm process forks one a trial, so a trial costs what its work costs."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from multiprocessing import forkserver
from pathlib import Path

import torch

from tests.support.runs import TINY, no_report
from vitrail.training import loop


def in_child(work: Callable[[], object]) -> int:
    """Forks a child that does `work` with its output thrown away; gives its pid."""
    pid = os.fork()
    if pid == 0:
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        try:
            work()
            os._exit(0)
        except BaseException as error:
            os._exit(getattr(error, "exit_code", 99))
    return pid


def train_to_the_end(folder: Path) -> Callable[[], object]:
    """A fresh run, or the rest of one that was killed; a kill before run.json was written leaves nothing to resume.

    No report is drawn: it follows from the files that are compared.
    """

    def work() -> None:
        with no_report():
            begun = (folder / "run.json").exists()
            loop.train(None if begun else TINY, out=folder, resume=begun, quiet=True)

    return work


def forget_servers() -> None:
    """In a child: the server that this test process forks its loader processes from is not the child's to use."""
    server = forkserver._forkserver
    server._forkserver_address = server._forkserver_alive_fd = server._forkserver_pid = None


def ended(pid: int) -> int:
    """Waits; the exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def poisoned_at(step: int, rank: int = 0) -> None:
    """From here on `learn` finds a NaN among the targets of that step, on that rank."""
    learn = loop.learn

    def poisoned(setup, state, batch, *rest):
        if state.step == step and setup.world.rank == rank:
            batch = dataclasses.replace(batch, targets=torch.full((len(batch.keys), 10), torch.nan))
        learn(setup, state, batch, *rest)

    loop.learn = poisoned


def alive(group: int) -> list[str]:
    """The names of a process group's processes that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            name, _, rest = path.read_text().rpartition(")")
            state, _, its_group = rest.split()[:3]
            if int(its_group) == group and state != "Z":
                found.append(name)
    return found
