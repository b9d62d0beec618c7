"""Weights, gradients and optimiser state in shards over the ranks: torch's FSDP2 (`fully_shard`), block by block.

A block's weights are whole only while it computes; all else of a rank is its 1/n of every tensor, a DTensor cut along its
first dimension. Gradients are averaged as they are reduced, so batch size and learning rate keep their meaning.
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

_VIEW = r"FSDP2-wrapped module .* returned a view tensor"
"""torch's warning of a block such as MaxViT's; what it warns of, a change of the block's output in place, no family does."""


def shard(model: nn.Module, device: torch.device, dtype: torch.dtype, *, compiled: bool = False) -> nn.Module:
    """Cuts the model into shards, in place. Weights travel in `dtype`, in which they multiply; gradients in float32.

    With batch norms weights travel in float32: none takes those of half precision beside activations of full. Activations
    keep the precision that autocast gives them. With `compiled`, each block is compiled by itself.
    """
    warnings.filterwarnings("ignore", _VIEW, UserWarning)
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    norms = list(batch_norms(model))
    travels = dtype if dtype != torch.float32 and not norms else None
    policy = MixedPrecisionPolicy(param_dtype=travels, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for block in reversed(list(blocks(model))):  # inner ones first
        if compiled:
            block.compile()
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    if norms:
        model.register_forward_pre_hook(_statistics_of_the_first)
    return model


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The blocks of any family: what its lists of modules hold."""
    for parent in model.modules():
        if isinstance(parent, nn.ModuleList):
            held = (child for child in parent if not isinstance(child, nn.ModuleList))
            yield from (child for child in held if next(child.parameters(), None) is not None)


def batch_norms(model: nn.Module) -> Iterator[nn.Module]:
    """Modules with running statistics: torch's batch norms and ours."""
    return (module for module in model.modules() if getattr(module, "running_mean", None) is not None)


def _statistics_of_the_first(model: nn.Module, *inputs: Any) -> None:
    """The running statistics of batch norms follow the first rank's, as under DDP."""
    if model.training:
        for norm in batch_norms(model):
            for buffer in norm.buffers(recurse=False):
                dist.broadcast(buffer, 0)
