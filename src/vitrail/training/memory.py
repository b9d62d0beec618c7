"""The memory that a training step needs, by arithmetic, before anything of it is allocated."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch

from vitrail import machine
from vitrail.batches.batch import Batch
from vitrail.errors import MemoryRanOut
from vitrail.models import cost, zoo
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.objective import Objective
from vitrail.processes.world import World
from vitrail.training import optim
from vitrail.training.run import Optim, Run

BF16 = 0.65
"""Activations of autocast to bf16 against float32: layer norms and the residual stream stay float32. Measured 0.60."""
TRANSIENT = 1.2
"""Gradients of activations live at the same time for a moment."""
FILLED = 0.8
"""Share of the available memory that a micro-batch may fill."""
SMALL = 1e9
"""Parameters × pixels below which the forward pass is a real one: the meta device counts maps of attention that no fused kernel
keeps (1,024 tokens of width 96 and 4 blocks: 76 MB an image, where 26 are kept)."""


@lru_cache(maxsize=64)
def activation_bytes(objective: Objective, config: ModelConfig, settings: Optim = Optim()) -> float:  # noqa: B008
    """Bytes that a float32 step keeps of one image for its backward pass, counted in a forward pass of two images.

    A large model's pass runs on the meta device, which computes and allocates nothing.

    A block of a ViT keeps 16 numbers for each token and channel: two inputs and two outputs of layer norms, q, k, v, the
    attention's output, and the MLP's hidden layer before and after GELU.
    """
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage  # held, so that no other takes its number
        return tensor

    alone = not getattr(objective, "teacher", "")  # of a teacher only the shape is built, on the meta device
    small = alone and _count_parameters(config) * config.image[0] * config.image[1] < SMALL
    made, place = (zoo.build, "cpu") if small else (zoo.skeleton, "meta")
    with torch.random.fork_rng(devices=[]), torch.device(place):  # nothing here moves the common generator
        learner: Any = objective.build(made(config)).to(place).train()  # a model of timm is made with memory
        images = torch.zeros(2, config.channels, *config.image)  # batch norm needs two
        batch = Batch(images, torch.zeros(2, dtype=torch.long), ("", ""))
    if settings.freeze == "backbone":
        optim.freeze_backbone(learner, settings.last_blocks)
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with hooks, torch.random.fork_rng(devices=[]):  # dropout draws from the common generator
        objective(learner, batch, torch.Generator().manual_seed(0))
    for parameter in learner.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    return sum(storage.nbytes() for storage in kept.values()) / 2


@lru_cache(maxsize=64)
def _count_parameters(config: ModelConfig) -> int:
    return cost.count_parameters(config)


def training_bytes(run: Run, micro: int) -> float:
    """Bytes of a step of `micro` images at once: weights, gradients, two moments, the average, activations."""
    low = run.hardware.precision == "bf16"
    weights = _count_parameters(run.model)
    each = activation_bytes(run.objective, run.model, run.optim) * (BF16 if low else 1.0)
    return weights * (20 if run.ema else 16) + weights * (2 if low else 0) + TRANSIENT * each * micro


def fit_micro_batch(run: Run, share: int, available: float) -> int:
    """The most images at once that leave some of the `available` bytes free: `share`, or a divisor of it.

    Raises MemoryRanOut where the run names more than fits, or a single image does not fit.
    """
    asked = run.hardware.micro_batch
    divisors = [size for size in range(share, run.objective.least_batch - 1, -1) if share % size == 0]
    sizes = [asked] if asked else divisors
    room = [size for size in sizes if training_bytes(run, size) <= FILLED * available]
    if room:
        return room[0]
    needed = training_bytes(run, sizes[-1])
    if needed <= available:
        return sizes[-1]
    what = "one image" if sizes[-1] == 1 else f"{sizes[-1]} images"
    raise MemoryRanOut(
        f"training on {what} at once needs about {needed / 2**30:.1f} GiB, and {available / 2**30:.1f} GiB are available",
        next_step="choose a smaller micro_batch, a smaller model or size, or checkpoint_activations = True",
    )


def with_micro_batch(run: Run, world: World) -> Run:
    """The run with a micro-batch that the memory of every process holds; its model, device and precision are resolved.

    Runs that recompute activations or keep weights in shards need less than is counted here, and stay as they are.
    """
    settings = run.hardware
    if settings.checkpoint_activations or settings.parallel == "fsdp":
        return run
    device = torch.device(settings.device)
    processes = world.here if device.type == "cpu" else 1
    here = torch.tensor(machine.memory(device).available // processes)
    share = world.share(run.batch_size)
    micro = fit_micro_batch(run, share, float(min(world.gather(here))))
    return run if micro == share else replace(run, hardware=replace(settings, micro_batch=micro))
