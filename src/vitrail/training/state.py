"""All that changes while a run trains, in one object: what a checkpoint holds and a resume restores.

Nothing else is needed: the order of samples and every random number follow from (seed, step), so neither a sampler's nor a
generator's state exists.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vitrail import config as configs
from vitrail.checkpoints.read import Snapshot
from vitrail.errors import CheckpointError, ConfigError
from vitrail.processes.world import World, own, part_of
from vitrail.training import optim
from vitrail.training.ema import Ema
from vitrail.training.ledger import Ledger
from vitrail.training.run import Run


@dataclass(frozen=True)
class MeterFacts:
    """A meter in a checkpoint."""

    sums: dict[str, float]
    count: int


@dataclass(frozen=True)
class Facts:
    """The facts of a checkpoint: all but the tensors."""

    step: int
    evaluated: int
    best: float
    best_step: int
    meter: MeterFacts
    ledger: int
    data: str
    run: Run | None = None
    """The settings that it was trained with. None in checkpoints of 0.1.0."""

    @classmethod
    def of(cls, snapshot: Snapshot) -> "Facts":
        """Those of a checkpoint. CheckpointError for facts that are missing or of another kind."""
        where, before = f"the checkpoint of step {snapshot.step}", "remove this checkpoint: the one before is used"
        try:
            facts = configs.from_dict(cls, dict(snapshot.facts), where=where)
        except ConfigError as error:
            raise CheckpointError(error.found, next_step=before) from None
        if facts.step != snapshot.step:
            raise CheckpointError(f"{where} says that it is of step {facts.step}", next_step=before)
        return facts


@dataclass
class Meter:
    """Sums of what the objective reports since the last line of the log; on the device, so that adding never waits for it."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    count: int = 0

    def add(self, report: Mapping[str, Tensor]) -> None:
        for name, value in report.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.double()
        self.count += 1

    def means(self, world: World) -> dict[str, float]:
        """The mean over steps and ranks of each number."""
        return {name: total / max(1, self.count) for name, total in self._totals(world).items()}

    def clear(self) -> None:
        self.sums, self.count = {}, 0

    def facts(self, world: World) -> dict[str, Any]:
        return {"sums": self._totals(world), "count": self.count}

    def _totals(self, world: World) -> dict[str, float]:
        if not self.sums:
            return {}
        stacked = world.sum(torch.stack(list(self.sums.values()))) / world.size
        return dict(zip(self.sums, stacked.tolist(), strict=True))  # one read of the device for all

    def restore(self, facts: MeterFacts, device: torch.device) -> None:
        self.sums = {
            name: torch.tensor(total, dtype=torch.float64, device=device) for name, total in facts.sums.items()
        }
        self.count = facts.count


@dataclass
class State:
    """Weights, optimiser, average, and how far it has come."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    ema: Ema | None = None
    step: int = 0
    """Finished optimiser steps; the position in the stream of samples is step × batch_size."""
    evaluated: int = -1
    """The last step whose evaluation is in the log."""
    best: float = -1.0
    best_step: int = -1
    meter: Meter = field(default_factory=Meter)
    ledger: Ledger = field(default_factory=Ledger)
    data: str = ""
    """Fingerprint of the images it learns from."""
    run: Run | None = None
    """Its settings, so that a checkpoint and run.json can be compared."""

    @property
    def best_model(self) -> nn.Module:
        """The module to evaluate and save: the average of the weights, or the model itself without one."""
        return self.ema.model if self.ema else self.model

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Everything with a shape, by file: model, optimizer, ema."""
        groups = {"model": dict(self.model.state_dict()), "optimizer": self._optimizer_tensors()}
        if self.ema:
            groups["ema"] = dict(self.ema.model.state_dict())
        return groups

    @property
    def size(self) -> int:
        """Bytes of a checkpoint, near enough: weights, average, and two moments of all that trains."""
        weights = sum(tensor.nbytes for tensor in self.model.state_dict().values())
        return weights * (2 if self.ema else 1) + 2 * sum(parameter.nbytes for parameter in self.parameters())

    def facts(self, world: World) -> dict[str, Any]:
        """Numbers and settings. Every rank must call this: the sums are over all ranks."""
        scalars = {name: getattr(self, name) for name in ("step", "evaluated", "best", "best_step")}
        sums = {"meter": self.meter.facts(world), "ledger": self.ledger.value(world)}
        return {**scalars, **sums, "data": self.data, "run": self.run and configs.to_dict(self.run)}

    def restore(self, snapshot: Snapshot, world: World = World()) -> None:  # noqa: B008  # frozen
        """Takes over a checkpoint, or raises CheckpointError with the state untouched."""
        found, facts = snapshot.tensors, Facts.of(snapshot)
        refuse_misfits(self._misfits(found))
        take(found["model"], self.model.state_dict())
        if self.ema:
            take(found["ema"], self.ema.model.state_dict())
        self._restore_optimizer(found.get("optimizer", {}))
        for name in ("step", "evaluated", "best", "best_step"):
            setattr(self, name, getattr(facts, name))
        self.meter.restore(facts.meter, next(self.model.parameters()).device)
        self.ledger = Ledger(facts.ledger if world.leads else 0)  # the shares of ranks add up

    def parameters(self) -> list[nn.Parameter]:
        """The parameters that the optimiser changes."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _parameters_by_name(self) -> dict[str, nn.Parameter]:
        held = {id(parameter) for parameter in self.parameters()}
        return {name: parameter for name, parameter in self.model.named_parameters() if id(parameter) in held}

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}:{key}": torch.as_tensor(value)
            for name, parameter in self._parameters_by_name().items()
            for key, value in self.optimizer.state[parameter].items()
            if value is not None
        }

    def _misfits(self, found: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
        wanted = self.tensors() | {"optimizer": self._kept_by_optimizer(found.get("optimizer", {}))}
        sentences = [f"{name} is not of this run" for name in found.keys() - wanted.keys()]
        for name, group in wanted.items():
            sentences += misfits(f"{name}/", found.get(name, {}), group)
        return sentences

    def _kept_by_optimizer(self, found: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors that the optimiser would hold for each parameter with some state in `found`."""
        named, kept = self._parameters_by_name(), optim.kept(self.optimizer)
        begun = {entry.rpartition(":")[0] for entry in found}
        return {
            f"{name}:{key}": torch.zeros(()) if key == "step" else parameter
            for name, parameter in named.items()
            if name in begun
            for key in kept[id(parameter)]
        }

    def _restore_optimizer(self, tensors: Mapping[str, Tensor]) -> None:
        self.optimizer.state.clear()
        named = self._parameters_by_name()
        for entry, like in self._kept_by_optimizer(tensors).items():
            name, _, key = entry.rpartition(":")
            parameter = named[name]
            self.optimizer.state[parameter][key] = torch.zeros_like(like, device=parameter.device).detach()
        take(tensors, self._optimizer_tensors())


def misfits(prefix: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """A sentence for each tensor of one name that differs, told without reading those that lie on the disk."""
    about = shapes_of(found)
    sentences = [f"{prefix}{name} is missing" for name in wanted if name not in about]
    sentences += [f"{prefix}{name} is not of this run" for name in about if name not in wanted]
    for name in wanted.keys() & about.keys():
        there, here = (f"{'×'.join(map(str, t.shape)) or 'a number'} {t.dtype}" for t in (about[name], wanted[name]))
        if there != here:
            sentences.append(f"{prefix}{name} is {there}, here {here}".replace("torch.", ""))
    return sentences


def refuse_misfits(sentences: list[str]) -> None:
    """CheckpointError for a checkpoint of other tensors."""
    if sentences:
        named, more = sorted(sentences)[:5], len(sentences) - 5
        raise CheckpointError(
            f"the checkpoint does not fit this run, in {len(sentences)} tensors: {', '.join(named)}"
            + (f" and {more} more" if more > 0 else ""),
            next_step="resume with the run's own settings, or start a new one from its `weights`",
        )


def shapes_of(source: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Tensors with the shapes and types of a group's, which itself may lie on the disk."""
    return source if isinstance(source, dict) else source.described  # pyrefly: ignore[missing-attribute]


def take(source: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> None:
    """Copies a group of a checkpoint into this run's tensors, of which a rank may hold a shard."""
    if not isinstance(source, dict):
        source.load(targets)  # pyrefly: ignore[missing-attribute]  # in shards on the disk: only the parts that are wanted are read
        return
    for name, target in targets.items():
        own(target.detach()).copy_(part_of(source[name], target))
