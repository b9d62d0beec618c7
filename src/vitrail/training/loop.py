"""The training loop. All of it is here: read `train`, then `Fit.run`, then `learn`.

Pre-training, fine-tuning, distillation and masked prediction are this loop with another objective; one CPU, one GPU and many
are this loop with another world.
"""

import contextlib
import math
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
from vitrail.batches.mixing import mix, pair
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints.background import Saver
from vitrail.errors import DecodeError, Preempted, translate_errors
from vitrail.images.sources import Splits
from vitrail.processes.signals import Interrupted, StopSignals
from vitrail.processes.world import OrderedGradients, World, whole, world
from vitrail.reports.journal import Journal, TensorBoard
from vitrail.reports.progress import Progress, progress
from vitrail.scores.outcome import Outcome
from vitrail.training import optim, outcome
from vitrail.training.data_check import look_over
from vitrail.training.head_start import HeadStart, head_start
from vitrail.training.ledger import unreadable
from vitrail.training.nan_guard import FiniteGuard
from vitrail.training.resume_rules import check_changes, check_data
from vitrail.training.run import Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import Setup, on_device, open_for, prepare
from vitrail.training.state import State
from vitrail.training.unseen import save_trained_keys, starting_keys, without_trained
from vitrail.weights.bundle import save_bundle
from vitrail.weights.trained_on import TRAINED_KEYS, carry_trained_keys

SMALLER = (
    "finished checkpoints are whole: resume with a smaller hardware.micro_batch, or with "
    "hardware.checkpoint_activations = True"
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


def train(
    run: Run | None,
    *,
    out: Path | None = None,
    splits: Splits | None = None,
    resume: bool = False,
    override: bool = False,
    accept_data_change: bool = False,
    check_images: bool = True,
    allow_leaks: bool = False,
    quiet: bool = False,
    tensorboard: bool = False,
    announce: Callable[[Setup], object] | None = None,
) -> Result:
    """Trains `run` into the folder `out`; with `resume`, continues the run in the folder `out` to the same bits.

    `run` is None to resume as it was, or the run with changes: `training.resume_rules` says which are allowed; `override`
    allows all. `splits` are the opened images; without them `run.data` is opened. Images that changed since the start are
    refused unless `accept_data_change`. `check_images` looks for copies and damage before a new run's first step; held-out
    images that are also training images are a DataError unless `allow_leaks`. `announce` is called before the first step.
    `tensorboard` writes the log a second time for that program.

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
        wanted, changes = check_changes(folder.run, run, override=override) if resume and run else (folder.run, ())
        start = starting_keys(wanted)
        splits = without_trained(splits or open_for(wanted.objective, wanted.data, wanted.holdout), start)
        setup = prepare(wanted, ranks, splits)
        seen = look_over(setup, allow_leaks=allow_leaks, quiet=quiet) if check_images and not resume else ()
        before = HeadStart(setup) if resume else head_start(setup)
        setup = before.setup
        state = setup.state()
        folder.check_room(state.size)
        restored = restore(state, folder, ranks, accept_data_change) if resume else ()
        with StopSignals() as stop:  # until now there was nothing to lose
            folder.save_baselines(before.baselines)
            folder.save(setup.run)  # after all that may refuse a changed run, and before any other file of a new one
            if ranks.leads and (accept_data_change or not (folder.path / TRAINED_KEYS).exists()):
                save_trained_keys(folder.path, setup.splits.train, start, quiet=quiet)
            journal = open_journal(folder, state, tensorboard=tensorboard and ranks.leads)
            if announce:
                announce(setup)
            with (
                progress(setup.total_steps, folder.path.name, done=state.step, quiet=quiet or not ranks.leads) as bar,
                Saver(folder.checkpoints, ranks, setup.device, in_shards=setup.unsharded is not None) as saver,
            ):
                for sentence in (*setup.notes, *changes, *seen, *before.notes, *restored):
                    bar.note(sentence)
                fit = Fit(setup, state, folder, journal, bar, stop, saver)
                fit.run()
                return Result(folder.path, fit.finish(), setup, folder.baselines)


def restore(state: State, folder: RunFolder, ranks: World, accept_data_change: bool) -> list[str]:
    """Takes over the newest checkpoint if there is one; sentences on what was passed over."""
    said: list[str] = []
    if snapshot := checkpoints.newest(folder.checkpoints, say=said.append, world=ranks):
        check_data(snapshot.facts["data"], state.data, accept=accept_data_change)
        state.restore(snapshot, ranks)
    return said


def open_journal(folder: RunFolder, state: State, *, tensorboard: bool) -> Journal:
    """The log, without the lines after the step that the state is at."""
    mirror = TensorBoard(folder.path / "tensorboard") if tensorboard else None
    journal = Journal(folder.metrics, mirror=mirror)
    journal.rewind(state.step)
    return journal


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

    def run(self) -> None:
        """Steps until the end; evaluates, saves and logs at steps that depend on nothing but their number."""
        setup, state = self.setup, self.state
        guard = FiniteGuard(setup.device, self.folder.path, alone=setup.world.alone)
        speed, log_every = Speed(setup), max(1, setup.total_steps // 500)
        with contextlib.closing(setup.batches(state.step)) as batches:
            while True:
                self.saver.check()
                try:
                    self._evaluate_and_save(guard)
                    if state.step == setup.total_steps:
                        return
                    if setup.world.any(self.stop.asked is not None):
                        raise Interrupted
                    batch = next(batches)
                    self._list(batch.dropped)
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
            return outcome.finish(self.setup, self.state, self.folder, self.journal, self._watch())
        except Interrupted:
            self.saver.wait()
            raise self._preempted() from None

    def _list(self, dropped: Sequence[DecodeError]) -> None:
        """Images that could not be read are left out, never replaced: each is named once, in bad_samples.jsonl."""
        path = self.folder.path / "bad_samples.jsonl"
        for error in dropped:
            if error.key not in unreadable(path):
                Journal(path).append({"key": error.key, "reason": error.reason})
                self.bar.note(f"left out: {error.found}")

    def _due(self, every: str) -> bool:
        step = self.state.step
        return step == self.setup.total_steps or (step > 0 and step % self.setup.steps(every) == 0)

    def _log(self, speed: "Speed") -> None:
        state, setup = self.state, self.setup
        means = state.meter.means(setup.world)
        state.meter.clear()
        pace = speed.read()
        row: dict[str, Any] = {"step": state.step, "epoch": state.step / setup.steps_per_epoch, **means}
        row |= {"lr": setup.schedule(state.step - 1), "ledger": f"{state.ledger.value(setup.world):016x}"}
        self.journal.append({**row, **pace})
        self.bar.update(state.step, **{name: means[name] for name in ("loss", "accuracy") if name in means}, **pace)

    def _evaluate_and_save(self, guard: FiniteGuard) -> None:
        if self._due(self.setup.run.evaluate_every) and self.state.evaluated != self.state.step:
            self._evaluate()
        if self._due(self.setup.run.save_every):
            self._save(guard)

    def _evaluate(self) -> None:
        """Judges the model and keeps it: as best/ if its headline is the best so far, as last/ if no headline chooses."""
        state, setup, objective = self.state, self.setup, self.setup.run.objective
        learner = setup.whole(state.best_model)
        source = setup.splits.val or setup.splits.test
        judged = outcome.judge(setup, objective.model_to_judge(learner), source, self._watch())
        scores, headline = judged.outcome, judged.outcome.headline
        state.evaluated = state.step
        numbers = {f"held_out_{name}": value for name, value in scores.numbers.items() if name != "images"}
        self.journal.append({"step": state.step, "epoch": state.step / setup.steps_per_epoch, **numbers})
        self.bar.update(state.step, **{"held_out" if headline.percent else f"held_out_{headline.name}": headline.value})
        if scores.chooses_best and state.best_step >= 0 and not headline.is_better_than(state.best):
            return
        if scores.chooses_best:
            state.best, state.best_step = headline.value, state.step
        if setup.world.leads:
            model = objective.model_of(learner)
            record = outcome.make_record(model, setup, scores if scores.chooses_best else None, judged.calibration)
            folder = self.folder.best if scores.chooses_best else self.folder.last
            save_bundle(folder, model, record)
            carry_trained_keys(self.folder.path, folder)

    def _save(self, guard: FiniteGuard) -> None:
        guard.read()
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

    Random numbers are keyed by (seed, step, micro-batch of the global batch), whichever rank computes it; those of mixing by
    (seed, step), one draw for the whole batch.
    """
    run, world, report = setup.run, setup.world, dict[str, Tensor]()
    parts = split_in_parts(setup, batch if len(batch) else blank(setup))
    ordered = OrderedGradients(world, state.parameters()) if run.hardware.deterministic and not world.alone else None
    for index, (part, partner) in enumerate(stop.watch(parts) if world.alone else parts):
        key = (run.seed, state.step, world.rank * len(parts) + index)
        torch.manual_seed(seed_of(*key))  # dropout and stochastic depth
        random = generator(*key)
        ready = on_device(part, setup)
        if partner is None:
            ready = mix(ready, run.mixing, random, len(setup.classes))
        else:
            mixer = generator(run.seed, state.step, -1)
            ready = mix(ready, run.mixing, mixer, len(setup.classes), on_device(partner, setup))
        # equal parts, unless images of several shapes are parted by shape; blank images count for nothing
        share = len(batch) / len(part) if len(batch) else math.inf
        with synced(setup, last=index == len(parts) - 1):
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


def split_in_parts(setup: Setup, batch: Batch) -> Sequence[tuple[Batch, Batch | None]]:
    """The micro-batches, each with the partners that its images are mixed with; None by the old rules, or without mixing."""
    if setup.run.rules > 1 and setup.run.mixing.on:
        return pair(batch, setup.micro_batch, setup.run.augment.repeats)
    return [(part, None) for part in batch.split(setup.micro_batch)]


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
