"""The training loop. All of it is here: read `train`, then `Fit.run`, then `learn`.

Pre-training, fine-tuning, distillation and masked prediction are this loop with another objective; one CPU, one GPU and many
are this loop with another world.
"""

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitrail import hardware
from vitrail.batches.draws import generator, seed_of
from vitrail.batches.loader import Batch
from vitrail.batches.mixing import mix
from vitrail.checkpoints.background import Saver
from vitrail.errors import Preempted, translate_errors
from vitrail.images.sources import Splits
from vitrail.processes.signals import Interrupted, StopSignals
from vitrail.processes.world import OrderedGradients, world
from vitrail.reports.journal import Callback, Journal
from vitrail.reports.progress import Progress, progress
from vitrail.reports.trackers import log_to_tensorboard
from vitrail.scores.outcome import Outcome
from vitrail.training import optim, outcome
from vitrail.training.micro_batches import blank, clip, key_stochastic_depth, split_in_parts, synced
from vitrail.training.nan_guard import FiniteGuard
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup, on_device
from vitrail.training.speed import Speed
from vitrail.training.start import Start, resume_run, start_run, write_start
from vitrail.training.state import State
from vitrail.training.validate import Best, best_of, is_out_of_patience, list_unreadable, validate

SMALLER = (
    "use a smaller `hardware.micro_batch`, or `hardware.checkpoint_activations = True`; "
    "a run that has a checkpoint can be resumed so"
)


@dataclass(frozen=True)
class Result:
    """A finished run."""

    folder: Path
    scores: Outcome
    """Of the held-out images: the last weights, or the best ones if the data have a validation split."""
    setup: Setup
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Accuracy of cheap answers on the same images: majority class, neighbours, logistic regression."""
    best: Best | None = None
    """The weights in best/; None where no score chose them."""


def train(
    run: Run | None, *, out: Path | None = None, splits: Splits | None = None, resume: bool = False,
    override: bool = False, accept_data_change: bool = False, check_images: bool = True, allow_leaks: bool = False,
    quiet: bool = False, report: bool = True, tensorboard: bool = False, callbacks: Sequence[Callback] = (),
    announce: Callable[[Setup], object] | None = None,
) -> Result:  # fmt: skip
    """Trains `run` into the folder `out`; with `resume`, continues the run in the folder `out` to the same bits.

    `run` is None to resume as it was, or the run with changes: `training.resume_rules` says which are allowed; `override`
    allows all. `splits` are the opened images; without them `run.data` is opened. Images that changed since the start are
    refused unless `accept_data_change`. `check_images` looks for copies and damage before a new run's first step; held-out
    images that are also training images are a DataError unless `allow_leaks`. `announce` is called before the first step.
    `tensorboard` writes the log a second time for that program; `callbacks` are called with each row of it. Without
    `report` no report.html is drawn, which takes seconds.

    Raises Preempted after a signal (its checkpoint is written), NonFiniteError before a NaN can reach the weights.

        result = train(recipe("digits"), out=Path("runs/digits"))
        print(result.scores)
    """
    asked = run or RunFolder.read(out)
    with (
        translate_errors("training", SMALLER),
        world(hardware.device(asked.hardware.device), parallel=asked.hardware.parallel) as ranks,
        RunFolder.open(run, out, resume, ranks) as folder,
    ):
        if resume:
            start = resume_run(run, folder, ranks, splits, override=override, accept_data_change=accept_data_change)
        else:
            start = start_run(
                asked, folder, ranks, splits, check_images=check_images, allow_leaks=allow_leaks, quiet=quiet
            )
        with StopSignals() as stop:  # until now there was nothing to lose
            write_start(start, folder, new_images=accept_data_change, quiet=quiet)
            board = [log_to_tensorboard(folder.path / "tensorboard")] if tensorboard and ranks.leads else []
            journal = Journal(folder.metrics, callbacks=[*board, *callbacks] if ranks.leads else [])
            journal.rewind(start.state.step)  # lines after the step that the state is at go
            if announce:
                announce(start.setup)
            return run_to_end(start, folder, journal, stop, quiet=quiet, report=report)


def run_to_end(
    start: Start, folder: RunFolder, journal: Journal, stop: StopSignals, *, quiet: bool, report: bool
) -> Result:
    """Trains from where `start` is to the last step, and judges what came of it."""
    setup, state = start.setup, start.state
    with (
        progress(setup.total_steps, folder.path.name, done=state.step, quiet=quiet or not setup.world.leads) as bar,
        Saver(folder.checkpoints, setup.world, setup.device, in_shards=setup.unsharded is not None) as saver,
    ):
        for sentence in start.notes:
            bar.note(sentence)
        fit = Fit(setup, state, folder, journal, bar, stop, saver, report)
        fit.run()
        scores = fit.finish()
        return Result(folder.path, scores, setup, folder.baselines, best_of(setup, state, folder, scores))


@dataclass
class Fit:
    """The loop and everything it talks to."""

    setup: Setup
    state: State
    folder: RunFolder
    journal: Journal
    bar: Progress
    stop: StopSignals
    saver: Saver
    report: bool = True

    def run(self) -> None:
        """Steps until the end; evaluates, saves and logs at steps that depend on nothing but their number."""
        setup, state = self.setup, self.state
        guard = FiniteGuard(setup.device, self.folder.path, rank=None if setup.world.alone else setup.world.rank)
        speed, log_every = Speed(setup), max(1, setup.total_steps // 500)
        with contextlib.closing(setup.batches(state.step)) as batches:
            while True:
                self.saver.check()
                try:
                    self._evaluate_and_save(guard)
                    if self._finished:
                        return
                    if setup.world.any(self.stop.asked is not None):
                        raise Interrupted
                    batch = next(batches)
                    list_unreadable(self.folder, self.bar, batch.dropped)
                    learn(setup, state, batch, guard, self.stop)
                except Interrupted:
                    self._stop(guard)
                speed.step()
                if state.step % log_every == 0 or self._due(setup.run.save_every):
                    guard.read()
                    self._log(speed)

    def finish(self) -> Outcome:
        """The held-out scores, the last weights and the report. A signal now leaves the last checkpoint, which is whole."""
        try:
            self.folder.check_place("the end of this run")
            found = outcome.finish(self.setup, self.state, self.folder, self.journal, self._watch(), report=self.report)
            self.folder.check_place("its report")
            return found
        except Interrupted:
            self.saver.wait()
            raise self._preempted() from None

    def _due(self, every: str) -> bool:
        step = self.state.step
        return step == self.setup.total_steps or (step > 0 and step % self.setup.steps(every) == 0)

    def _log(self, speed: Speed) -> None:
        state, setup = self.state, self.setup
        means = state.meter.means(setup.world)
        state.meter.clear()
        pace = speed.read()
        epoch = state.step / setup.steps_per_epoch
        row: dict[str, Any] = {"step": state.step, "epoch": epoch, **means}
        row |= {"lr": setup.schedule(state.step - 1), "ledger": f"{state.ledger.value(setup.world):016x}"}
        self.journal.append({**row, **pace})
        shown = {name: means[name] for name in ("loss", "accuracy") if name in means}
        self.bar.update(state.step, epoch=epoch, **shown, **pace)

    def _evaluate_and_save(self, guard: FiniteGuard) -> None:
        fitted = self.state.step == 0 and self.setup.chooses_start
        if (fitted or self._due(self.setup.run.evaluate_every)) and self.state.evaluated != self.state.step:
            validate(self.setup, self.state, self.folder, self.journal, self.bar, self._watch())
        if self._due(self.setup.run.save_every) or self._finished:
            self._save(guard)

    @property
    def _finished(self) -> bool:
        return self.state.step >= self.setup.total_steps or is_out_of_patience(self.setup, self.state)

    def _save(self, guard: FiniteGuard) -> None:
        guard.read()
        self.folder.check_place(f"what was learned after step {max(0, self.saver.step or 0)}")
        facts = self.state.facts(self.setup.world)
        self.saver.save(self.state.step, self.state.tensors(), facts, self.journal.sync)

    def _watch(self) -> outcome.Watch:
        # several ranks must stop at the same place, which is the top of the loop
        return self.stop.watch if self.setup.world.alone else iter

    def _stop(self, guard: FiniteGuard) -> None:
        if self.saver.step != self.state.step:
            self._save(guard)
        self.saver.wait()
        raise self._preempted()

    def _preempted(self) -> Preempted:
        error = Preempted(
            f"stopped by a signal after step {self.state.step} of {self.setup.total_steps}; the checkpoint is written",
            next_step=f"go on with `resume='{self.folder.path}'`",
        )
        error.exit_code = self.stop.exit_code
        return error


def learn(setup: Setup, state: State, batch: Batch, guard: FiniteGuard, stop: StopSignals) -> None:
    """One optimiser step on one batch. A stop between micro-batches leaves the state as it was.

    A batch without a readable image changes nothing but the number of the step.
    """
    run, world = setup.run, setup.world
    if world.alone and not len(batch):
        state.step += 1
        return
    optim.set_lr(state.optimizer, setup.schedule(state.step))
    setup.forward.train()
    report = compute_gradient(setup, state, batch, stop)
    norm = clip(state, run.optim.clip)
    guard.check(state, report["loss"], norm, batch.keys)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.ledger.add(state.step, batch.keys)
    state.step += 1
    run.objective.after_step(state.model, state.step / setup.total_steps)
    if state.ema:
        state.ema.update(state.model, state.step)
    state.meter.add({**report, "grad_norm": norm})


def compute_gradient(setup: Setup, state: State, batch: Batch, stop: StopSignals) -> dict[str, Tensor]:
    """The gradient of the mean loss, accumulated over micro-batches; gives the means of what the objective reports.

    Mixing has one draw for the whole batch, keyed by (seed, step). Stochastic depth is keyed by the image. Dropout and masks
    are keyed by (seed, step, micro-batch of the global batch), whichever rank computes it.
    """
    run, world, report = setup.run, setup.world, dict[str, Tensor]()
    parts = split_in_parts(setup, batch if len(batch) else blank(setup))
    ordered = OrderedGradients(world, state.parameters()) if run.hardware.deterministic and not world.alone else None
    for index, (part, partner) in enumerate(stop.watch(parts) if world.alone else parts):
        key = (run.seed, state.step, world.rank * len(parts) + index)
        torch.manual_seed(seed_of(*key))  # dropout
        random = generator(*key)
        ready = on_device(part, setup)
        if partner is None:
            ready = mix(ready, run.mixing, random, len(setup.classes))
        else:
            mixer = generator(run.seed, state.step, -1)
            ready = mix(ready, run.mixing, mixer, len(setup.classes), on_device(partner, setup))
        # equal parts, unless images of several shapes are parted by shape; blank images count for nothing
        share = len(batch) / len(part) if len(batch) else math.inf
        with synced(setup, last=index == len(parts) - 1), key_stochastic_depth(setup, part):
            with hardware.autocast(setup.device, setup.dtype):
                loss = run.objective(setup.forward, ready, random)
            (loss.value / (share * (world.size if ordered else 1))).backward()
        for name, value in loss.report.items():
            report[name] = report.get(name, 0.0) + value.detach() / share
        if ordered:
            ordered.keep()
    if ordered:
        ordered.add(parts=world.share(run.batch_size) // setup.micro_batch)
    return report
