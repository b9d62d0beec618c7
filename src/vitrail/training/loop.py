"""The training loop. All of it is here: read `train`, then `Fit.run`, then `learn`.

Pre-training, fine-tuning, distillation and masked prediction are this loop with another objective; one CPU, one GPU and many
are this loop with another world.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from vitrail import hardware, machine
from vitrail.batches.draws import generator, seed_of
from vitrail.batches.loader import Batch
from vitrail.batches.mixing import mix
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints.background import Saver
from vitrail.errors import DecodeError, Preempted, translate_errors
from vitrail.evaluation.classification import Scores
from vitrail.images.sources import Splits
from vitrail.processes.signals import Interrupted, StopSignals
from vitrail.processes.world import OrderedGradients, whole, world
from vitrail.reports.journal import Journal, TensorBoard
from vitrail.reports.progress import Progress, progress
from vitrail.training import finish, optim
from vitrail.training.data_check import look_over
from vitrail.training.head_start import HeadStart, head_start
from vitrail.training.ledger import unreadable
from vitrail.training.nan_guard import FiniteGuard
from vitrail.training.pretraining import Measured
from vitrail.training.resume_rules import check_data, continued
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup, on_device, open_for, prepare
from vitrail.training.state import State
from vitrail.training.unseen import save_trained_keys, starting_keys, without_trained
from vitrail.weights.trained_on import TRAINED_KEYS

SMALLER = (
    "finished checkpoints are whole: --resume with a smaller --hardware.micro-batch, which learns the same, or with "
    "--hardware.checkpoint-activations"
)


@dataclass(frozen=True)
class Result:
    """What a finished run hands back."""

    folder: Path
    scores: Scores | Measured
    """Of the held-out images: the last weights, or the best on the validation split where the data has one of its own.
    Without labels, the objective's own numbers."""
    setup: Setup
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Accuracy of cheap answers on the same images: majority class, neighbours, logistic regression."""


def train(
    run: Run | None,
    *,
    out: Path | None = None,
    resume: bool = False,
    override: bool = False,
    accept_data_change: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    allow_leaks: bool = False,
    announce: Callable[[Setup], object] | None = None,
    splits: Splits | None = None,
    check: bool | None = None,
) -> Result:
    """Trains `run` into the folder `out`; with `resume`, `out` is an earlier run's folder and continues to the same bits.

    On resuming, `run` is None for "as it was", or the run with changes: `train.resume` says which pass. Data that differ from
    the data it was started on are refused unless `accept_data_change`.
    `splits` are the images, where they are not simply those of `run.data` (a share of the labels, pseudo-labels).
    The images of a new run are checked first (`training.data_check`): held-out ones that are trained on too are a DataError
    unless `allow_leaks`. Given `splits` are checked where `check` is True.
    `announce` is called when the run is ready and has not begun; `tensorboard` writes the log a second time, for that program.
    Raises Preempted (its checkpoint is written) when a signal asks it to stop, NonFiniteError before a NaN can reach the weights.
    """
    asked, check = run or RunFolder.stored(out), splits is None if check is None else check
    with (
        translate_errors("training", SMALLER),
        world(hardware.device(asked.hardware.device), parallel=asked.hardware.parallel) as ranks,
        RunFolder.open(run, out, resume, ranks) as folder,
    ):
        wanted, changes = continued(folder.run, run, override=override) if resume and run else (folder.run, ())
        start = starting_keys(wanted)
        splits = without_trained(splits or open_for(wanted.objective, wanted.data, wanted.holdout), start)
        setup = prepare(wanted, ranks, splits)
        seen = () if resume or not check else look_over(setup, allow_leaks=allow_leaks, quiet=quiet)
        before = HeadStart() if resume else head_start(setup)
        state = setup.state()
        folder.check_room(state.size)
        said = [*setup.notes, *changes, *seen, *before.notes]
        if resume and (snapshot := checkpoints.newest(folder.checkpoints, say=said.append, world=ranks)):
            check_data(snapshot.facts["data"], state.data, accept=accept_data_change)
            state.restore(snapshot, ranks)
        with StopSignals() as stop:  # until now there was nothing to lose
            folder.save_baselines(before.baselines)
            folder.save(setup.run)  # after all that may refuse a changed run, and before any other file of a new one
            if ranks.leads and (accept_data_change or not (folder.path / TRAINED_KEYS).exists()):
                save_trained_keys(folder.path, setup.splits.train, start, quiet=quiet)
            mirror = TensorBoard(folder.path / "tensorboard") if tensorboard and ranks.leads else None
            journal = Journal(folder.metrics, mirror=mirror)
            journal.rewind(state.step)
            if announce:
                announce(setup)
            with (
                progress(setup.total_steps, folder.path.name, done=state.step, quiet=quiet or not ranks.leads) as bar,
                Saver(folder.checkpoints, ranks, setup.device, in_shards=setup.unsharded is not None) as saver,
            ):
                for sentence in said:
                    bar.note(sentence)
                fit = Fit(setup, state, folder, journal, bar, stop, saver)
                fit.run()
                scores = fit.finish()
    return Result(folder.path, scores, setup, folder.baselines)


@dataclass
class Fit:
    """The loop and what it talks to."""

    setup: Setup
    state: State
    folder: RunFolder
    journal: Journal
    bar: Progress
    stop: StopSignals
    saver: Saver

    def run(self) -> None:
        """Steps until the end; evaluates, saves and logs at steps that depend on nothing but their number."""
        setup, state = self.setup, self.state
        guard = FiniteGuard(setup.device, self.folder.path, alone=setup.world.alone)
        speed = Speed(setup)
        log_every = max(1, setup.total_steps // 500)
        evaluate_every, save_every = setup.steps(setup.run.evaluate_every), setup.steps(setup.run.save_every)
        with contextlib.closing(setup.batches(state.step)) as batches:
            while True:
                self.saver.check()
                try:
                    if self._due(evaluate_every) and state.evaluated != state.step:
                        self._evaluate()
                    if self._due(save_every):
                        self._save(guard)
                    if state.step == setup.total_steps:
                        return
                    if setup.world.any(self.stop.asked is not None):
                        raise Interrupted
                    batch = next(batches)
                    self._list(batch.dropped)
                    learn(setup, state, batch, guard, self.stop)
                except Interrupted:
                    self._preempted(guard)
                speed.step()
                if state.step % log_every == 0 or self._due(save_every):
                    guard.read()
                    self._log(speed)

    def finish(self) -> Scores | Measured:
        """The held-out scores, the last weights and the report; a signal now leaves the last checkpoint, which is whole."""
        try:
            return finish.finish(self.setup, self.state, self.folder, self.journal, self._watch())
        except Interrupted:
            self.saver.wait()
            raise self._stopped() from None

    def _list(self, dropped: Sequence[DecodeError]) -> None:
        """Images that could not be read are left out, never replaced: each is named once, in bad_samples.jsonl."""
        path = self.folder.path / "bad_samples.jsonl"
        for error in dropped:
            if error.key not in unreadable(path):
                Journal(path).append({"key": error.key, "reason": error.reason})
                self.bar.note(f"left out: {error.found}")

    def _due(self, every: int) -> bool:
        return self.state.step == self.setup.total_steps or (self.state.step > 0 and self.state.step % every == 0)

    def _log(self, speed: "Speed") -> None:
        state, setup = self.state, self.setup
        means = state.meter.means(setup.world)
        state.meter.clear()
        pace = speed.read()
        row: dict[str, Any] = {"step": state.step, "epoch": state.step / setup.steps_per_epoch, **means}
        row |= {"lr": setup.schedule(state.step - 1), "ledger": f"{state.ledger.value(setup.world):016x}"}
        self.journal.append({**row, **pace})
        self.bar.update(state.step, **{name: means[name] for name in ("loss", "accuracy") if name in means}, **pace)

    def _evaluate(self) -> None:
        state, setup = self.state, self.setup
        model = setup.whole(state.best_model)
        scores = finish.held_out(setup, model, setup.splits.val or setup.splits.test, self._watch())
        state.evaluated = state.step
        self.journal.append({"step": state.step, "epoch": state.step / setup.steps_per_epoch, **finish.summary(scores)})
        if isinstance(scores, Measured):
            self.bar.update(state.step, held_out_loss=scores.loss)
            if setup.world.leads:
                finish.save_weights(self.folder.last, model, setup, None)
            return
        self.bar.update(state.step, held_out=scores.top1)
        if scores.top1 > state.best:
            state.best, state.best_step = scores.top1, state.step
            if setup.world.leads:
                finish.save_weights(self.folder.best, model, setup, scores)

    def _save(self, guard: FiniteGuard) -> None:
        guard.read()
        facts = self.state.facts(self.setup.world)
        self.saver.save(self.state.step, self.state.tensors(), facts, self.journal.sync)

    def _watch(self):
        # several ranks must stop at the same place, which is the top of the loop
        return self.stop.watch if self.setup.world.alone else iter

    def _preempted(self, guard: FiniteGuard) -> None:
        if self.saver.step != self.state.step:
            self._save(guard)
        self.saver.wait()
        raise self._stopped()

    def _stopped(self) -> Preempted:
        error = Preempted(
            f"stopped by a signal after step {self.state.step} of {self.setup.total_steps}; the checkpoint is written",
            next_step=f"continue with `vitrail train --resume {self.folder.path}`",
        )
        error.exit_code = self.stop.exit_code
        return error


def learn(setup: Setup, state: State, batch: Batch, guard: FiniteGuard, stop: StopSignals) -> None:
    """One optimiser step on one batch: the gradient of the mean loss, accumulated over equal micro-batches.

    All random numbers are keyed by (seed, step, micro-batch of the global batch), whichever rank computes it; a stop between
    micro-batches leaves the state as it was.
    """
    run, world, report = setup.run, setup.world, {}
    optim.set_lr(state.optimizer, setup.schedule(state.step))
    setup.forward.train()
    parts = batch.split(setup.micro_batch)
    ordered = OrderedGradients(world, state.parameters()) if run.hardware.deterministic and not world.alone else None
    for index, part in enumerate(stop.watch(parts) if world.alone else parts):
        key = (run.seed, state.step, world.rank * len(parts) + index)
        torch.manual_seed(seed_of(*key))  # dropout and stochastic depth
        random = generator(*key)
        ready = mix(on_device(part, setup), run.mixing, random, len(setup.classes))
        with synced(setup, last=index == len(parts) - 1):
            with hardware.autocast(setup.device, setup.dtype):
                loss = run.objective(setup.forward, ready, random)
            share = len(batch) / len(part)  # equal parts, unless images of several shapes are parted by shape
            (loss.value / (share * (world.size if ordered else 1))).backward()
        if ordered:
            ordered.keep()
        for name, value in loss.report.items():
            report[name] = report.get(name, 0.0) + value.detach() / share
    if ordered:
        ordered.add()
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


def synced(setup: Setup, *, last: bool) -> contextlib.AbstractContextManager[Any]:
    """Gradients travel between ranks once a step, with the last micro-batch."""
    forward = setup.forward
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) and not last else contextlib.nullcontext()


def clip(state: State, largest: float | None) -> Tensor:
    """Scales the gradient to a global L2 norm of at most `largest`; gives its norm before that, on the device."""
    norm = torch.nn.utils.clip_grad_norm_(state.parameters(), largest or float("inf"), foreach=True)
    return whole(norm)


class Speed:
    """Images a second over all ranks, and their share of the measured peak of as many machines as this."""

    def __init__(self, setup: Setup) -> None:
        self._setup, self._flops = setup, setup.flops_per_image
        self._peak = machine.peak_flops(setup.device, setup.dtype) * setup.world.size
        self._since, self._steps = time.perf_counter(), 0

    def step(self) -> None:
        self._steps += 1

    def read(self) -> dict[str, float]:
        seconds = max(1e-9, time.perf_counter() - self._since)
        rate = self._steps * self._setup.run.batch_size / seconds
        self._since, self._steps = time.perf_counter(), 0
        return {"images_per_s": rate, "peak_share": rate * self._flops / self._peak}
