"""Checkpoints written while training goes on: tensors are copied at the step, and a thread does the rest.

What a crash can leave is what it could before, since the thread commits as `train.commit` says: at most one interval, and what
was being written, is lost. Memory for one copy of the state is the price.
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

from vitrail import hardware
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints.write import aside_of, publishing, refused, seal
from vitrail.errors import StorageError
from vitrail.processes.world import TIMEOUT, World

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
        """Copies the tensors and returns; the thread does `first` (the first rank's) and commits. Waits for the one before.

        Every rank calls it; where each holds all, the first alone writes.
        """
        self.wait()
        self.step = step
        if self._in_shards:
            work = self._shards(step, tensors, facts)
        elif self._world.leads:
            copies = {
                group: {name: self._copy(f"{group}/{name}", tensor) for name, tensor in held.items()}
                for group, held in tensors.items()
            }
            work = functools.partial(checkpoints.commit, self._folder, step, copies, facts, keep=KEEP)
        else:
            return
        hardware.synchronise(self._device)
        self._thread = threading.Thread(target=self._run, args=(first, work), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raises what the writer met."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def wait(self) -> None:
        """Until the last checkpoint is on the disk."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self.check()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> None:
        """Waits; when something else has failed already, the writer's error is told beside it."""
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
            if self._world.leads:
                first()
            work()
        except BaseException as error:  # raised where the loop looks
            foreign = isinstance(error, OSError) and not isinstance(error, StorageError)
            self._error = refused(self._folder, self.step, error.strerror or str(error)) if foreign else error

    def _copy(self, name: str, tensor: Tensor) -> Tensor:
        """Into memory that is kept from save to save: fresh pages would cost more than the copy."""
        copy = self._copies.get(name)
        if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
            copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            self._copies[name] = copy
        return copy.copy_(tensor.detach(), non_blocking=True)

    def _shards(self, step: int, tensors: Tensors, facts: Mapping[str, Any]) -> Callable[[], object]:
        """Plans with all ranks and copies; what is left to do is writing and telling the first rank."""
        from vitrail.checkpoints import sharded as shards

        planner, world = shards.SavePlans(), self._world
        planner.set_up_planner({f"{g}/{name}": tensor for g, held in tensors.items() for name, tensor in held.items()})
        told = world.tell(shards.plan_to_json(planner.create_local_plan()))
        plans, metadata = planner.create_global_plan([shards.plan_from_json(rows) for rows in told])
        writer = shards.ShardWriter(self._folder)
        plans = writer.prepare_global_plan(plans)
        planner.stage(plans[world.rank], self._copy)
        return lambda: self._commit(step, facts, writer, planner, plans, metadata)

    def _commit(
        self, step: int, facts: Mapping[str, Any], writer: Any, planner: Any, plans: Any, metadata: Any
    ) -> None:
        """The first rank makes the folder, all write, the first seals and publishes it when all have."""
        owner = self._world.tell(os.getpid(), self._group)[0]
        if not self._world.leads:
            self._world.tell(None, self._group)  # the folder is there
            self._written(aside_of(self._folder, step, owner), step, writer, planner, plans)
            return
        with publishing(self._folder, step, KEEP) as aside:
            self._world.tell(None, self._group)
            files = self._written(aside, step, writer, planner, plans)
            writer.finish(metadata, files)
            listed = {row[0].storage_data["file"]: _line(row[0]) for row in files if row}
            seal(aside, step, {**listed, checkpoints.SHARDS: writer.index}, facts)

    def _written(self, aside: Path, step: int, writer: Any, planner: Any, plans: Any) -> Any:
        """Writes this rank's shard; gives the results of all, or raises StorageError on all."""
        writer.reset(aside)
        plan, failed, line = plans[self._world.rank], "", {}
        try:
            line = writer.write_data(plan, planner).wait()[0].storage_data if plan.items else {}
        except OSError as error:
            failed = error.strerror or str(error)
        told = self._world.tell([failed, line], self._group)
        if whys := [why for why, _ in told if why]:
            raise refused(self._folder, step, whys[0])
        return [_results(plan, line) for plan, (_, line) in zip(plans, told, strict=True)]


def _group() -> Any:
    """Made within the training's patience, for a rank may die now; then it has the patience that disks need."""
    group = dist.new_group(backend="gloo", timeout=TIMEOUT)
    # the public name came with torch 2.12 or later
    set_timeout: Any = getattr(dist, "set_timeout", None) or distributed_c10d._set_pg_timeout
    set_timeout(PATIENCE, group)
    return group


def _results(plan: Any, line: Mapping[str, Any]) -> list[Any]:
    from torch.distributed.checkpoint.storage import WriteResult

    return [WriteResult(item.index, line["size"], line) for item in plan.items]


def _line(result: Any) -> dict[str, Any]:
    return {name: value for name, value in result.storage_data.items() if name != "file"}
