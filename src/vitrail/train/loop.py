"""The training loop. All of it is here: read `train`, then `fit`, then `learn`.

Pre-training, fine-tuning, distillation and masked prediction are this loop with another objective.
"""

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail import machine
from vitrail.batches.draws import generator, seed_of
from vitrail.batches.loader import Batch
from vitrail.batches.mixing import mix
from vitrail.errors import Preempted
from vitrail.evaluate import evaluate
from vitrail.evaluate.classification import Scores
from vitrail.reports.journal import Journal
from vitrail.reports.progress import Progress, progress
from vitrail.train import checkpoints, finish, optim
from vitrail.train.finite import FiniteGuard
from vitrail.train.folder import RunFolder
from vitrail.train.run import Run
from vitrail.train.setup import Setup, on_device, prepare
from vitrail.train.signals import Interrupted, StopSignals
from vitrail.train.state import State


@dataclass(frozen=True)
class Result:
    """What a finished run hands back."""

    folder: Path
    scores: Scores
    """Of the held-out images: the last weights, or the best on the validation split where the data has one of its own."""
    setup: Setup


def train(run: Run, *, out: Path | None = None, resume: bool = False, quiet: bool = False) -> Result:
    """Trains `run` into the folder `out`; with `resume`, `out` is an earlier run's folder and continues to the same bits.

    Raises Preempted (its checkpoint is written) when a signal asks it to stop, NonFiniteError before a NaN can reach the weights.
    """
    opened = RunFolder.reopen(out) if resume and out else RunFolder.create(run, out)
    with opened as folder, StopSignals() as stop:
        setup = prepare(folder.run)
        folder.run = setup.run
        folder.save_run()
        state = setup.state()
        journal = Journal(folder.metrics)
        with progress(setup.total_steps, folder.path.name, quiet=quiet) as bar:
            for note in setup.notes:
                bar.note(note)
            if resume and (snapshot := checkpoints.newest(folder.checkpoints, say=bar.note)):
                state.restore(snapshot)
            journal.rewind(state.step)
            Fit(setup, state, folder, journal, bar, stop).run()
        scores = finish.finish(setup, state, folder, journal)
    return Result(folder.path, scores, setup)


@dataclass
class Fit:
    """The loop and what it talks to."""

    setup: Setup
    state: State
    folder: RunFolder
    journal: Journal
    bar: Progress
    stop: StopSignals

    def run(self) -> None:
        setup, state = self.setup, self.state
        guard = FiniteGuard(setup.device, self.folder.path)
        speed = Speed(setup)
        log_every = max(1, setup.total_steps // 500)
        evaluate_every, save_every = setup.steps(setup.run.evaluate_every), setup.steps(setup.run.save_every)
        batches = setup.batches(state.step)
        with contextlib.closing(batches):  # pyrefly: ignore[bad-argument-type]
            while True:
                at_end = state.step == setup.total_steps
                try:
                    if self._due(evaluate_every, at_end) and state.evaluated != state.step:
                        self._evaluate()
                    if self._due(save_every, at_end):
                        self._save(guard)
                    if at_end:
                        return
                    learn(setup, state, next(batches), guard, self.stop)
                except Interrupted:
                    self._preempted(guard)
                speed.step()
                if state.step % log_every == 0 or self._due(save_every, state.step == setup.total_steps):
                    guard.read()
                    self._log(speed)

    def _due(self, every: int, at_end: bool) -> bool:
        return at_end or (self.state.step > 0 and self.state.step % every == 0)

    def _log(self, speed: "Speed") -> None:
        state, setup = self.state, self.setup
        means = state.meter.means()
        state.meter.clear()
        row: dict[str, Any] = {"step": state.step, "epoch": state.step / setup.steps_per_epoch, **means}
        row["lr"] = setup.schedule(state.step - 1)
        pace = speed.read()
        self.journal.append({**row, **pace})
        self.bar.update(state.step, **{name: means[name] for name in ("loss", "accuracy") if name in means}, **pace)

    def _evaluate(self) -> None:
        state, setup = self.state, self.setup
        model = state.ema.model if state.ema else state.model
        held_out = setup.splits.val or setup.splits.test
        scores, _ = evaluate(model, held_out, **finish.evaluation_settings(setup), watch=self.stop.watch)
        state.evaluated = state.step
        self.journal.append({"step": state.step, "epoch": state.step / setup.steps_per_epoch, **finish.summary(scores)})
        self.bar.update(state.step, held_out=scores.top1)
        if scores.top1 > state.best:
            state.best, state.best_step = scores.top1, state.step
            finish.save_weights(self.folder.best, model, setup, scores)

    def _save(self, guard: FiniteGuard) -> None:
        guard.read()
        self.journal.sync()
        checkpoints.commit(self.folder.checkpoints, self.state.step, self.state.tensors(), self.state.facts())

    def _preempted(self, guard: FiniteGuard) -> None:
        self._save(guard)
        error = Preempted(
            f"stopped by a signal after step {self.state.step} of {self.setup.total_steps}; the checkpoint is written",
            next_step=f"continue with `vitrail train --resume {self.folder.path}`",
        )
        error.exit_code = self.stop.exit_code
        raise error


def learn(setup: Setup, state: State, batch: Batch, guard: FiniteGuard, stop: StopSignals) -> None:
    """One optimiser step on one batch: the gradient of the mean loss, accumulated over equal micro-batches.

    All random numbers are keyed by (seed, step, micro-batch); a stop between micro-batches leaves the state as it was.
    """
    run, report = setup.run, {}
    optim.set_lr(state.optimizer, setup.schedule(state.step))
    setup.forward.train()
    parts = batch.split(setup.micro_batch)
    for index, part in enumerate(stop.watch(parts)):
        torch.manual_seed(seed_of(run.seed, state.step, index))  # dropout and stochastic depth
        random = generator(run.seed, state.step, index)
        ready = mix(on_device(part, setup), run.mixing, random, len(setup.classes))
        with machine.autocast(setup.device, setup.dtype):
            loss = run.objective(setup.forward, ready, random)
        (loss.value / len(parts)).backward()
        for name, value in loss.report.items():
            report[name] = report.get(name, 0.0) + value.detach() / len(parts)
    norm = clip(state, run.optim.clip)
    guard.check(state, report["loss"], norm, batch.keys)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.step += 1
    if state.ema:
        state.ema.update(state.model, state.step)
    state.meter.add({**report, "grad_norm": norm})


def clip(state: State, largest: float | None) -> Tensor:
    """Scales the gradient to a global L2 norm of at most `largest`; gives its norm before that, on the device."""
    parameters = [parameter for group in state.optimizer.param_groups for parameter in group["params"]]
    return torch.nn.utils.clip_grad_norm_(parameters, largest or float("inf"), foreach=True)


class Speed:
    """Images a second, and their share of this machine's measured peak."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._peak = machine.peak_flops(setup.device, setup.dtype)
        self._since, self._steps = time.perf_counter(), 0

    def step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        seconds = max(1e-9, time.perf_counter() - self._since)
        rate = self._steps * self._setup.run.batch_size / seconds
        self._since, self._steps = time.perf_counter(), 0
        return {"images_per_s": rate, "peak_share": rate * 6 * self._setup.macs / self._peak}
