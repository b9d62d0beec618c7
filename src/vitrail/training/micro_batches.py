"""The parts of a batch that go through the model one after the other, and the gradient that they add up to."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vitrail.batches.draws import Draws
from vitrail.batches.loader import Batch
from vitrail.batches.mixing import pair
from vitrail.processes.world import whole
from vitrail.training.setup import Setup
from vitrail.training.state import State


def split_in_parts(setup: Setup, batch: Batch) -> Sequence[tuple[Batch, Batch | None]]:
    """The micro-batches, each with the partners that its images are mixed with; None by the old rules, or without mixing."""
    if setup.run.rules > 1 and setup.run.mixing.on:
        return pair(batch, setup.micro_batch, setup.run.augment.repeats)
    return [(part, None) for part in batch.split(setup.micro_batch)]


@contextlib.contextmanager
def key_stochastic_depth(setup: Setup, batch: Batch) -> Iterator[None]:
    """Inside, each image loses branches by draws of its own, keyed by (seed, epoch, sample, branch): the same in any
    micro-batch and on any rank. By the old rules, and for blank images, torch draws for the micro-batch.
    """
    if setup.run.rules < 2 or batch.numbers is None:
        yield
        return
    draws = Draws(setup.run.seed, *batch.numbers.T)
    for number, branch in enumerate(setup.branches):
        branch.draws = torch.from_numpy(draws(f"branch.{number}")).float().to(setup.device)
    try:
        yield
    finally:
        for branch in setup.branches:
            branch.draws = None


def blank(setup: Setup) -> Batch:
    """Two black images, for a rank that could read none of its own: the others wait for its gradient, which is zero."""
    channels, size = setup.run.preprocess.channels, setup.run.preprocess.size
    labels = torch.from_numpy(setup.splits.train.labels[:1]).repeat_interleave(2, 0)
    return Batch(torch.zeros(2, channels, *size, dtype=torch.uint8), labels, ("", ""))


def synced(setup: Setup, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients travel between ranks once a step, with the last micro-batch."""
    forward = setup.forward
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else contextlib.nullcontext()


def clip(state: State, largest: float | None) -> Tensor:
    """Scales the gradient to a global L2 norm of at most `largest`; gives its norm before that, on the device."""
    norm = torch.nn.utils.clip_grad_norm_(state.parameters(), largest or float("inf"), foreach=True)
    return whole(norm)
