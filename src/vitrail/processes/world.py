"""Several processes as one run: torch.distributed under torchrun. Alone, everything here does nothing.

A global batch is split into equal contiguous shares, one a rank; each share into equal micro-batches. The mean over all of
them is the gradient, whatever the number of ranks, so batch size and learning rate keep their meaning.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitrail.errors import ConfigError, RankLost

TIMEOUT = timedelta(seconds=60)
"""A rank that is silent for this long is taken for dead, and all end."""


LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out", "NCCL")
"""How torch's back ends say in words that another process is gone."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @classmethod
    def from_environment(cls) -> "World":
        """Read from the environment, as torchrun sets it, without joining a group. Takes this process's GPU where there is one."""
        if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    @property
    def alone(self) -> bool:
        return self.size == 1

    @property
    def here(self) -> int:
        """How many of them run on this machine."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and speaks."""
        return self.rank == 0

    def share(self, batch_size: int) -> int:
        """This rank's images of a global batch. Raises ConfigError when they cannot be equal."""
        if batch_size % self.size:
            raise ConfigError(
                f"batch_size = {batch_size} does not divide among {self.size} processes",
                next_step=f"choose a multiple of {self.size}",
            )
        return batch_size // self.size

    def any(self, flag: bool) -> bool:
        """Whether any rank says so; every rank must ask."""
        return flag if self.alone else bool(self.sum(torch.tensor(float(flag))) > 0)

    def sum(self, value: Tensor) -> Tensor:
        if not self.alone:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def gather(self, value: Tensor, group: Any = None) -> list[Tensor]:
        """Every rank's tensor of one shape, in the order of ranks."""
        if self.alone:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous(), group=group)
        return parts

    def gather_rows(self, rows: Tensor) -> Tensor:
        """All ranks' rows, rank after rank, also where their numbers differ."""
        return torch.cat(self._uneven(rows))

    def tell(self, value: Any, group: Any = None) -> list[Any]:
        """Every rank's JSON value, in the order of ranks; torch's own `all_gather_object` would unpickle what it is sent."""
        if self.alone:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        return [json.loads(part.numpy().tobytes()) for part in self._uneven(text, group)]

    def _uneven(self, rows: Tensor, group: Any = None) -> list[Tensor]:
        if self.alone:
            return [rows]
        counts = [int(count) for count in self.gather(torch.tensor(len(rows)), group)]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        return [part[:count] for part, count in zip(self.gather(padded, group), counts, strict=True)]

    def same_buffers(self, model: nn.Module) -> None:
        """Gives every rank the first one's buffers: each has its own running statistics after a step on its own images."""
        for buffer in [] if self.alone else model.buffers():
            dist.broadcast(buffer, 0)

    def slice(self, count: int) -> range:
        """This rank's contiguous share of `count` items, nearly equal among ranks."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)


@contextmanager
def world(device: torch.device, *, parallel: str = "auto") -> Iterator[World]:
    """Joins the group that torchrun described in the environment, and leaves it; alone where there is none.

    An engine that is asked for by name gets its group also where it is of one.
    """
    size = World.from_environment().size
    if size == 1 and parallel == "auto":
        yield World()
        return
    # gloo carries the flags of the host, nccl the gradients of the GPUs
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    if size == 1:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    else:
        dist.init_process_group(backend, timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), size)
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in LOST):
            raise RankLost(
                f"process {dist.get_rank()} of {size} lost the others ({str(error).splitlines()[0][:120]})",
                next_step="the last checkpoint is whole: look at the first process that failed, then resume all",
            ) from error
        raise
    finally:
        dist.destroy_process_group()


# --- shards: DTensors, told by their methods, since the module that defines them takes a second to import --------------


def own(tensor: Any) -> Tensor:
    """This rank's part, in the tensor's own memory; all of it where it is no shard."""
    return tensor.to_local() if is_shard(tensor) else tensor


def whole(tensor: Any) -> Tensor:
    """All ranks' parts as one; every rank must ask."""
    return tensor.full_tensor() if is_shard(tensor) else tensor


def is_shard(tensor: Any) -> bool:
    return hasattr(tensor, "full_tensor")


def part_of(everything: Tensor, target: Any) -> Tensor:
    """The part of `everything`, which every rank has, that `target` is a shard of."""
    if not is_shard(target):
        return everything
    from torch.distributed.tensor import distribute_tensor

    everything = everything.to(target.device)
    return own(distribute_tensor(everything, target.device_mesh, target.placements, src_data_rank=None))


@torch.no_grad()
def gather_model(model: nn.Module, into: nn.Module) -> nn.Module:
    """Fills `into`, a model in one piece, from the shards of all ranks; every rank must ask."""
    targets = into.state_dict()
    for name, tensor in model.state_dict().items():
        targets[name].copy_(whole(tensor))
    return into


# --- the same bits on any number of ranks ----------------------------------------------------------------------------


class OrderedGradients:
    """Gradients added in one fixed order, so that 1, 2 or 4 ranks give the same bits.

    Each micro-batch's gradient is kept apart, all ranks hand theirs to all, and everyone adds them in the order of the global
    batch. It moves as many gradients as there are micro-batches: for proofs, not for speed.
    """

    def __init__(self, world: World, parameters: list[nn.Parameter]) -> None:
        self._world, self._parameters = world, parameters
        self._kept: list[Tensor] = []

    def keep(self) -> None:
        """Takes the gradient of one micro-batch out of the parameters."""
        self._kept.append(torch.cat([_flat(parameter) for parameter in self._parameters]))
        for parameter in self._parameters:
            parameter.grad = None

    def add(self, *, parts: int) -> None:
        """Puts the ordered sum of all ranks' gradients back. A rank that could not read all its images may have kept fewer
        than `parts`; the missing ones are zero.
        """
        zero = torch.zeros_like(self._kept[0])
        own = torch.stack([*self._kept, *[zero] * (parts - len(self._kept))])
        self._kept = []
        every = torch.cat(self._world.gather(own))  # ranks hold contiguous shares, so this is the order of the batch
        total = every[0].clone()
        for one in every[1:]:
            total += one
        for parameter, part in zip(self._parameters, total.split([p.numel() for p in self._parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


def _flat(parameter: nn.Parameter) -> Tensor:
    return parameter.grad.reshape(-1) if parameter.grad is not None else torch.zeros_like(parameter).reshape(-1)
