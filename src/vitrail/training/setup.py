"""From a Run, which is data, to what trains: everything derived is derived here, once, in one order.

data → model (its classes, channels and image size follow from data and preprocess) → weights → device → optimiser → schedule.
"""

import copy
import dataclasses
import warnings
from collections.abc import Generator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitrail import hardware
from vitrail.batches.draws import generator
from vitrail.batches.loader import Batch, train_batches
from vitrail.batches.mixing import Mixing, pairs_block
from vitrail.errors import ConfigError
from vitrail.images.sources import Splits
from vitrail.models import cost, zoo
from vitrail.models.backbone import Backbone
from vitrail.models.layers import DropPath
from vitrail.objectives.classify import balanced_weights
from vitrail.objectives.objective import Learner, Task
from vitrail.processes.world import World, gather_model
from vitrail.training import optim
from vitrail.training.ema import Ema
from vitrail.training.memory import with_micro_batch
from vitrail.training.run import Run, steps
from vitrail.training.run_data import arrange, locate, open_run, stream_of
from vitrail.training.state import State
from vitrail.weights.bundle import load_for_finetuning


@dataclass(frozen=True)
class Setup:
    """A run, ready to train: the resolved Run and all that was built from it."""

    run: Run
    splits: Splits
    model: nn.Module
    """The module that trains: the backbone, or the learner its objective built around it."""
    forward: nn.Module
    """The model as the loop calls it: itself, compiled, or with its gradients averaged over the ranks."""
    unsharded: nn.Module | None
    """A copy in one piece where the model lies in shards over the ranks, on the CPU; else None."""
    optimizer: torch.optim.Optimizer
    schedule: optim.Schedule
    total_steps: int
    steps_per_epoch: float
    device: torch.device
    dtype: torch.dtype
    world: World = field(default_factory=World)
    notes: tuple[str, ...] = ()
    """Sentences about choices made on the way: where the split came from, what became of each tensor of the weights."""

    @property
    def classes(self) -> tuple[str, ...]:
        return self.splits.train.classes

    @cached_property
    def branches(self) -> list[DropPath]:
        """The branches that stochastic depth leaves out for some images."""
        return [layer for layer in self.model.modules() if isinstance(layer, DropPath)]

    @property
    def micro_batch(self) -> int:
        """Images through the model at once, on this rank."""
        return self.run.hardware.micro_batch or self.world.share(self.run.batch_size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one forward pass of one image."""
        return cost.macs(self.run.model, self.run.preprocess.size)

    @property
    def flops_per_image(self) -> float:
        """Forward and backward: 6 × MACs of a classifier (2 operations each, the backward twice the forward)."""
        return self.run.objective.flops(self.run.model)

    @property
    def flops_per_step(self) -> float:
        return self.flops_per_image * self.run.batch_size

    @property
    def chooses_start(self) -> bool:
        """Whether validation images may choose the fitted head of the frozen model, before the first step."""
        return self.run.head == "logistic" and self.splits.val is not None

    def epochs(self, step: int) -> float:
        """Epochs up to this step, for people: a whole number where no other step is nearer to it; tenths from 10 on."""
        exact = step / self.steps_per_epoch
        whole = round(exact)
        is_whole = abs(exact - whole) * self.steps_per_epoch < 0.501
        return whole if is_whole else round(exact, 1) if exact > 10 else exact

    def steps(self, length: str) -> int:
        return max(1, steps(length, steps_per_epoch=self.steps_per_epoch, total=self.total_steps))

    def whole(self, model: nn.Module) -> nn.Module:
        """The model in one piece, to be evaluated and saved: itself, or put together from the shards of all ranks, each of
        which must ask.
        """
        self.world.same_buffers(model)
        if self.unsharded is None:
            return model
        return gather_model(model, copy.deepcopy(self.unsharded).to(self.device))

    def state(self) -> State:
        average = sharded(copy.deepcopy(self.unsharded), self.run) if self.unsharded and self.run.ema else None
        ema = Ema(self.model, self.run.ema, average) if self.run.ema else None
        return State(self.model, self.optimizer, ema, data=self.splits.train.fingerprint, run=self.run)

    def batches(self, start_step: int) -> Generator[Batch, None, None]:
        """The batches from `start_step` on: position in the stream is step × batch_size, and nothing else."""
        run = self.run
        return train_batches(
            stream_of(self.splits.train, run),
            preprocess=run.preprocess,
            augment=run.augment,
            seed=run.seed,
            batch_size=run.batch_size,
            start=start_step * run.batch_size,
            stop=self.total_steps * run.batch_size,
            workers=run.hardware.workers,
            rank=self.world.rank,
            world=self.world.size,
            pin=self.device.type == "cuda",
            skip_unreadable=run.skip_unreadable,
        )


def prepare(run: Run, world: World = World(), splits: Splits | None = None, *, fresh: bool = True) -> Setup:  # noqa: B008  # frozen
    """Opens the data, builds the model, chooses what the machine does best. Loads weights if `fresh`, else a checkpoint does."""
    splits = arrange(splits or open_run(run), run)
    if run.objective.reads_labels and len(splits.train.classes) < 2 and not splits.train.numeric:
        raise ConfigError(f"{run.data} has {len(splits.train.classes)} class", allowed="two or more")
    asked, run = run.hardware.micro_batch, resolve(run, splits, world)
    micro = run.hardware.micro_batch
    fewer = micro and micro != asked
    parts = (f"{micro} images go through the model at once: more do not fit the memory",) if fewer else ()
    # an nn.Module and a Backbone: Python has no name for both
    model, notes = build_model(run, splits.train.classes, weights=run.weights if fresh else None)
    device = torch.device(run.hardware.device)
    model.to(device)
    for backbone in (module for module in model.modules() if isinstance(module, Backbone)):
        backbone.checkpoint_activations = run.hardware.checkpoint_activations
    if run.optim.freeze == "backbone":
        optim.freeze_backbone(model, run.optim.last_blocks)
    unsharded = copy.deepcopy(model).cpu() if run.hardware.parallel == "fsdp" else None
    if unsharded is not None:
        model = sharded(model, run)
    per_epoch = len(stream_of(splits.train, run)) / run.batch_size
    total = run.steps(per_epoch)
    return Setup(
        run=run,
        splits=splits,
        model=model,
        forward=forward_of(model, run, world),
        unsharded=unsharded,
        optimizer=optim.optimiser(optim.tune(model, run.optim), run.optim),
        schedule=optim.schedule(
            run.optim, batch_size=run.batch_size, steps_per_epoch=per_epoch, total=total, head_start=run.rules - 1
        ),
        total_steps=total,
        steps_per_epoch=per_epoch,
        device=device,
        dtype=hardware.precision(run.hardware.precision, device),
        world=world,
        notes=(splits.how, *splits.train.notes, *parts, *notes),
    )


def resolve(run: Run, splits: Splits, world: World) -> Run:
    """Every "auto" made a value and every derived field of the model set, so that run.json says exactly what ran."""
    run = _no_more_than(len(splits.train), run, world)
    share = world.share(run.batch_size)
    _refuse_what_cannot_run(run, share, world)
    derived: dict[str, Any] = {
        "image": run.preprocess.size,
        "channels": run.preprocess.channels,
        "classes": len(splits.train.classes) if run.objective.reads_labels else 0,
    }
    model, preprocess = dataclasses.replace(run.model, **derived), run.preprocess
    if preprocess.resize == "native":
        preprocess = dataclasses.replace(preprocess, multiple=run.model.multiple)
    tokens, width = _work(model, run.hardware.micro_batch or share)
    settings = hardware.resolve(run.hardware, processes=world.here, tokens=tokens, width=width)
    objective = run.objective.for_labels(splits.train)
    if run.balance == "loss":
        objective = objective.with_class_weights(balanced_weights(splits.train.counts))
    # half of one image and half of another has no number
    mixing = Mixing() if splits.train.numeric and run.objective.reads_labels else run.mixing
    run = dataclasses.replace(
        run, model=model, preprocess=preprocess, objective=objective, hardware=settings, mixing=mixing,
        data=locate(run.data), weights=run.weights and locate(run.weights),
    )  # fmt: skip
    return with_micro_batch(run, world)


def _refuse_what_cannot_run(run: Run, share: int, world: World) -> None:
    """Raises ConfigError for settings that do not go together, `share` images of a batch on each of the processes."""
    settings, micro = run.hardware, run.hardware.micro_batch or share
    if micro > share or share % micro:
        raise ConfigError(
            f"micro_batch = {micro} does not divide batch_size = {run.batch_size}"
            + ("" if world.alone else f" on {world.size} processes, {share} images each"),
            next_step="gradients are accumulated over equal parts: choose a divisor",
        )
    if micro < (least := run.objective.least_batch):
        raise ConfigError(f"{micro} image at once in {run.objective.family!r}", allowed=f"{least} or more")
    # images that are mixed lie on one process, so that pairs are the same for any number of them
    pairs = not world.alone and run.mixing.on and run.rules > 1
    if pairs and share % (block := pairs_block(run.augment.repeats)):
        raise ConfigError(
            f"batch_size = {run.batch_size} on {world.size} processes parts pairs that are mixed, {share} images each",
            allowed=f"multiples of {block * world.size}",
        )
    if run.preprocess.resize == "native" and settings.deterministic and not world.alone:
        raise ConfigError(
            "`preprocess.resize='native'` with `hardware.deterministic=True` on several processes",
            allowed="images of one shape there: what is parted by shape is not equal among processes",
        )
    if settings.parallel == "fsdp" and run.head == "logistic":
        raise ConfigError("head = 'logistic' with parallel = 'fsdp'", allowed="head = 'zero', or parallel = 'ddp'")
    if settings.parallel == "fsdp" and settings.deterministic:
        raise ConfigError(
            "deterministic with parallel = 'fsdp'",
            allowed="'auto' or 'ddp': gradients in shards are added in the order of the network",
        )


def _no_more_than(images: int, run: Run, world: World) -> Run:
    """A batch of at most all images, so that an epoch is an epoch; the same number for every rank."""
    if run.batch_size <= images or images < world.size:
        return run
    share, micro = images // world.size, run.hardware.micro_batch
    if not world.alone and run.mixing.on:
        share -= share % pairs_block(run.augment.repeats)
    fits = micro is None or share % micro == 0
    parts = run.hardware if fits else dataclasses.replace(run.hardware, micro_batch=None)
    return dataclasses.replace(run, batch_size=share * world.size, hardware=parts)


def _work(model: zoo.ModelConfig, images: int) -> tuple[int, int]:
    """(tokens, width) to measure threads with; a network without width and patch counts as tokens of 16×16."""
    encoder = model.encoder
    (H, W), (p, q) = model.image, getattr(encoder, "patch", (16, 16))
    return images * max(1, H // p) * max(1, W // q), getattr(encoder, "width", 256)


def build_model(run: Run, classes: tuple[str, ...] = (), *, weights: str | None = None) -> tuple[Any, tuple[str, ...]]:
    """The model from the run's seed, or from `weights`, inside what its objective adds; and notes on the weights.

    A head of another size gives way to a zero one of D×K. Positions are resized.
    """
    random = generator(run.seed, 0)
    if weights:
        backbone, report = load_for_finetuning(run.model, weights, seed=run.seed)
        notes = tuple(report.lines())
    else:
        backbone, notes = zoo.build(run.model, generator=random), ()
    task = Task(weights=weights, preprocess=run.preprocess, classes=classes, seed=run.seed)
    model = run.objective.build(backbone, random, task)
    return model, (*notes, *(model.notes if isinstance(model, Learner) else ()))


def forward_of(model: nn.Module, run: Run, world: World) -> nn.Module:
    """The model as it is called: compiled where that pays, wrapped where several ranks share the batch."""
    if run.hardware.parallel == "fsdp":
        return model
    forward: nn.Module = torch.compile(model) if run.hardware.compile == "on" else model  # pyrefly: ignore[bad-assignment]
    if run.hardware.deterministic or (world.alone and run.hardware.parallel == "auto"):
        return forward
    # kernels of 1×1 in channels-last layout have two spellings of one layout
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides", UserWarning)
    return DistributedDataParallel(forward, gradient_as_bucket_view=True)


def sharded(model: nn.Module, run: Run) -> nn.Module:
    """The model in shards over the ranks, in place, as the run's hardware asks."""
    from vitrail.processes import fsdp

    device = torch.device(run.hardware.device)
    dtype = hardware.precision(run.hardware.precision, device)
    return fsdp.shard(model.to(device), device, dtype, compiled=run.hardware.compile == "on")


def on_device(batch: Batch, setup: Setup) -> Batch:
    """To the device, and from 8-bit pixels to what the model reads."""
    batch = batch.to(setup.device, non_blocking=True)
    return dataclasses.replace(batch, images=setup.run.preprocess.normalise(batch.images))
