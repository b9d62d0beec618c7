"""Checkpoints written while training goes on: tensors are copied at the step, and a thread writes the copies.

A crash leaves whole checkpoints only, as `checkpoints.write` says. It costs memory for one copy of the state.
"""

import functools
import os
import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import distributed_c10d

from vitrail import machine
from vitrail.checkpoints.write import ADVICE, aside_of, commit, folder_of, publish, seal
from vitrail.processes.world import TIMEOUT, World
from vitrail.storage import storage_errors

KEEP = 2
PATIENCE = timedelta(minutes=30)
"""How long ranks wait for the slowest disk among them."""

Tensors = Mapping[str, Mapping[str, Tensor]]


class Saver:
    """Saves one checkpoint at a time. A failure is raised at the next `check`, `save` or `wait`."""

    def __init__(self, folder: Path, world: World, device: torch.device, *, in_shards: bool = False) -> None:
        self.step = -1
        """The last step that was handed over."""
        self._folder, self._world, self._device, self._in_shards = folder, world, device, in_shards
        # the thread's messages must not mix with the training's
        self._group = _group() if in_shards and not world.alone else None
        self._copies: dict[str, Tensor] = {}
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, tensors: Tensors, facts: Mapping[str, Any], first: Callable[[], object]) -> None:
        """Copies the tensors and returns; a thread calls `first` on the first rank and commits. Waits for the save before.

        Every rank calls it. Where each holds all tensors, the first alone writes.
        """
        self.wait()
        self.step = step
        if self._in_shards:
            from vitrail.checkpoints import sharded

            parts = {
                name: (self._copy(name, part), begin)
                for name, (part, begin) in sharded.list_parts(tensors, self._world.leads).items()
            }
            work = functools.partial(self._commit, step, facts, parts)
        elif self._world.leads:
            copies = {
                group: {name: self._copy(f"{group}/{name}", tensor) for name, tensor in held.items()}
                for group, held in tensors.items()
            }
            work = functools.partial(commit, self._folder, step, copies, facts, keep=KEEP)
        else:
            return
        machine.synchronise(self._device)
        self._thread = threading.Thread(target=self._run, args=(first, work), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises the error of the last save, if it failed."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Waits until the last checkpoint is on the disk."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Waits; an error of the writer becomes a note of the one that ended the block."""
        if error is not None and self._group is not None and self._thread:
            self._thread.join(timeout=10)  # it may wait for a rank that is gone
            self._thread = None  # a daemon: it ends with the process
        try:
            self.wait()
        except Exception as late:
            if error is None:
                raise
            error.add_note(f"and the checkpoint of step {self.step} failed: {late}")

    def _run(self, first: Callable[[], object], work: Callable[[], object]) -> None:
        try:
            with storage_errors(folder_of(self._folder, self.step), ADVICE):
                if self._world.leads:
                    first()
                work()
        except BaseException as error:  # raised where the loop looks
            self._error = error

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """Copies into memory that is kept from save to save: new pages would cost more than the copy."""
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[name] = copy
        return copy.copy_(tensor.detach(), non_blocking=True)

    def _commit(self, step: int, facts: Mapping[str, Any], parts: Any) -> None:
        """The first rank makes the folder, all write, the first seals and publishes it when all have."""
        owner = self._world.tell(os.getpid(), self._group)[0]
        if not self._world.leads:
            self._world.tell(None, self._group)  # the folder is there
            self._write(aside_of(self._folder, step, owner), parts)
            return
        with publish(self._folder, step, KEEP) as aside:
            self._world.tell(None, self._group)
            seal(aside, step, self._write(aside, parts), facts)

    def _write(self, aside: Path, parts: Any) -> dict[str, Any]:
        """Writes this rank's file; gives the manifest's lines of all. Raises OSError on every rank where one failed."""
        from vitrail.checkpoints import sharded

        failed, line = None, {}
        try:
            line = sharded.write_parts(aside / _shard(self._world.rank), parts)
        except OSError as error:
            failed = error.strerror or str(error)
        told = self._world.tell([failed, line], self._group)
        if reasons := [reason for reason, _ in told if reason]:
            raise OSError(reasons[0])
        return {_shard(rank): line for rank, (_, line) in enumerate(told)}


def _shard(rank: int) -> str:
    return f"shard-{rank:05d}.safetensors"


def _group() -> Any:
    """Made within the short time limit, for a rank may die now; then it gets the long one that disks need."""
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    # the public name came with torch 2.12 or later
    set_timeout: Any = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
    set_timeout(PATIENCE, group)
    return group
