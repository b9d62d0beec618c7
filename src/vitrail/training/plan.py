"""The cost of a run, before it runs: sizes by arithmetic, time and memory by a short probe on real batches."""

import copy
import dataclasses
import time
from dataclasses import dataclass
from typing import Any

from vitrail import machine
from vitrail.images.findings import counted
from vitrail.images.samples import Splits
from vitrail.models import cost
from vitrail.processes.signals import StopSignals
from vitrail.reports.progress import duration
from vitrail.training.loop import learn
from vitrail.training.nan_guard import FiniteGuard
from vitrail.training.run import Run
from vitrail.training.setup import Setup, prepare

PROBE_SECONDS, MOST_SECONDS = 2.0, 20.0
"""For four steps or more; and where a step is so slow that there are fewer."""


@dataclass(frozen=True)
class Plan:
    """The numbers behind a decision to start; all counts exact but for the two that were measured."""

    run: Run
    images: int
    held_out: int
    classes: int
    steps: int
    epochs: float
    peak_lr: float
    parameters: int
    macs_per_image: int
    """Forward pass of the backbone on whole images."""
    flops_per_image: float
    """Of training on one image, as the objective asks: with its decoder or teacher, without the tokens it drops."""
    seconds_per_step: float
    """Measured: loading, forward, backward and optimiser, the median of the probe's micro-batches times their number."""
    peak_bytes: int
    """Measured: this process's peak after the probe, plus the average of the weights where the run keeps one."""

    @property
    def flops_per_step(self) -> float:
        return self.flops_per_image * self.run.batch_size

    @property
    def exaflops(self) -> float:
        """Compute of the whole run, attention products counted; the paper's Table 6 counts the same way."""
        return self.flops_per_step * self.steps / 1e18

    @property
    def seconds(self) -> float:
        """Time of all training steps; evaluation and checkpoints come on top."""
        return self.seconds_per_step * self.steps

    def rows(self) -> list[tuple[str, str]]:
        """(what, value) lines for a terminal."""
        run, micro = self.run, self.run.hardware.micro_batch or self.run.batch_size
        parts = run.batch_size // micro
        accumulated = f" as {parts} × {micro}" if parts > 1 else ""
        hardware = run.hardware
        height, width = run.preprocess.size
        classes = f"{self.classes} classes" + ("" if run.objective.reads_labels else " (not used)")
        return [
            ("images", f"{self.images:,} to learn from, {self.held_out:,} held out, {classes}"),
            (
                "model",
                f"{self.parameters:,} parameters, {height}×{width}, {self.macs_per_image / 1e9:.3g} GMAC an image",
            ),
            (
                "length",
                f"{counted(self.steps, 'step')} = {self.epochs:.4g} {'epoch' if self.epochs == 1 else 'epochs'}",
            ),
            ("batch", f"{counted(run.batch_size, 'image')}{accumulated}, peak learning rate {self.peak_lr:.3g}"),
            ("compute", f"{self.flops_per_step / 1e9:,.4g} GFLOP a step, {self.exaflops:.3g} exaFLOP in all"),
            (
                "machine",
                f"{hardware.device}, {hardware.precision}, {counted(hardware.threads, 'thread')}, compile {hardware.compile}",
            ),
            ("measured", f"{pace(self.seconds_per_step)} a step, so {duration(self.seconds)} in all"),
            ("memory", f"{self.peak_bytes / 2**30:.2f} GiB at the peak"),
        ]

    def to_dict(self) -> dict[str, Any]:
        derived = {"flops_per_step": self.flops_per_step, "exaflops": self.exaflops, "seconds": self.seconds}
        return {**dataclasses.asdict(self), **derived}


def pace(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms" if seconds < 1 else f"{seconds:.3g} s"


def plan(run: Run, splits: Splits | None = None) -> Plan:
    """Builds the run as training would, probes it and forgets it."""
    return plan_of(prepare(run, splits=splits))


def plan_of(setup: Setup) -> Plan:
    """The plan of a run that is ready; leaves its weights, buffers and optimiser as they were."""
    seconds, peak = probe(setup)
    average = 4 * cost.count_parameters(setup.model) if setup.run.ema else 0
    return Plan(
        run=setup.run,
        images=len(setup.splits.train),
        held_out=len(setup.splits.val or setup.splits.test),
        classes=len(setup.classes),
        steps=setup.total_steps,
        epochs=setup.epochs(setup.total_steps),
        peak_lr=setup.schedule.peak,
        parameters=cost.count_parameters(setup.model),
        macs_per_image=setup.macs,
        flops_per_image=setup.flops_per_image,
        seconds_per_step=seconds,
        peak_bytes=peak + average,
    )


def probe(setup: Setup) -> tuple[float, int]:
    """(seconds a step, peak bytes) of some real micro-batches at learning rate 0, the median without the first, which warms up.

    A step of several micro-batches takes as many times as long. Where one lasts long, two are enough, or the first alone.
    """
    run, parts = setup.run, max(1, setup.world.share(setup.run.batch_size) // setup.micro_batch)
    still = dataclasses.replace(
        setup,
        run=dataclasses.replace(run, ema=None, batch_size=run.batch_size // parts),
        schedule=dataclasses.replace(setup.schedule, peak=0.0, optim=dataclasses.replace(run.optim, final_lr=0.0)),
    )
    state, buffers = still.state(), copy.deepcopy(dict(setup.model.named_buffers()))
    times: list[float] = []
    batches = still.batches(0)
    began = time.perf_counter()
    while state.step < setup.total_steps:
        start = time.perf_counter()
        long_enough = PROBE_SECONDS if len(times) > 3 else MOST_SECONDS
        if times and setup.world.any(start - began >= long_enough):
            break
        learn(still, state, next(batches), FiniteGuard(setup.device, None), StopSignals())
        machine.synchronise(setup.device)
        times.append(time.perf_counter() - start)
        if len(times) == 1 and times[0] < MOST_SECONDS:
            began = time.perf_counter()
    batches.close()
    setup.optimizer.state.clear()
    for name, buffer in setup.model.named_buffers():
        buffer.copy_(buffers[name])
    kept = sorted(times[1:] or times or [0.0])
    return parts * kept[len(kept) // 2], machine.peak_memory(setup.device)
