"""Several processes as one run: torch.distributed under torchrun. Alone, everything here does nothing.

A global batch is split into equal contiguous shares, one a rank; each share into equal micro-batches. The mean over all of
them is the gradient, whatever the number of ranks, so batch size and learning rate keep their meaning.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitrail.errors import ConfigError, VitrailError

TIMEOUT = timedelta(seconds=60)
"""A rank that is silent for this long is taken for dead, and all end."""


LOST = ("gloo", "Connection closed by peer", "Connection reset by peer", "Timed out", "NCCL")
"""How torch's back ends say in words that another process is gone."""


class RankLost(VitrailError):
    """Another process of the run died or fell silent."""


@dataclass(frozen=True)
class World:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def alone(self) -> bool:
        return self.size == 1

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

    def gather(self, value: Tensor) -> list[Tensor]:
        """Every rank's tensor of one shape, in the order of ranks."""
        if self.alone:
            return [value]
        parts = [torch.empty_like(value) for _ in range(self.size)]
        dist.all_gather(parts, value.contiguous())
        return parts

    def gather_rows(self, rows: Tensor) -> Tensor:
        """All ranks' rows, rank after rank, also where their numbers differ."""
        if self.alone:
            return rows
        counts = [int(count) for count in self.gather(torch.tensor(len(rows)))]
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([part[:count] for part, count in zip(self.gather(padded), counts, strict=True)])

    def slice(self, count: int) -> range:
        """This rank's contiguous share of `count` items, nearly equal among ranks."""
        return range(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def wait(self) -> None:
        if not self.alone:
            dist.barrier()


@contextmanager
def world(device: torch.device) -> Iterator[World]:
    """Joins the group that torchrun described in the environment, and leaves it; alone where there is none."""
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # gloo carries the flags of the host, nccl the gradients of the GPUs
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield World(dist.get_rank(), size)
    except (dist.DistError, RuntimeError) as error:
        if isinstance(error, dist.DistError) or any(word in str(error) for word in LOST):
            raise RankLost(
                f"process {dist.get_rank()} of {size} lost the others ({str(error).splitlines()[0][:120]})",
                next_step="the last checkpoint is whole: look at the first process that failed, then start all with --resume",
            ) from error
        raise
    finally:
        dist.destroy_process_group()


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

    def add(self) -> None:
        """Puts the ordered sum of everybody's gradients back."""
        own = torch.stack(self._kept)
        self._kept = []
        every = torch.cat(self._world.gather(own))  # ranks hold contiguous shares, so this is the order of the batch
        total = every[0].clone()
        for one in every[1:]:
            total += one
        for parameter, part in zip(self._parameters, total.split([p.numel() for p in self._parameters]), strict=True):
            parameter.grad = part.view_as(parameter)


def _flat(parameter: nn.Parameter) -> Tensor:
    return parameter.grad.reshape(-1) if parameter.grad is not None else torch.zeros_like(parameter).reshape(-1)
