"""A tiny run on digits, what is compared of two runs, and how one is stopped."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vitrail.batches.mixing import Mixing
from vitrail.checkpoints import read as checkpoints
from vitrail.images.preprocess import Preprocess
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.objectives.classify import Classify
from vitrail.training import loop, outcome
from vitrail.training.run import Hardware, Optim, Run

TINY = Run(
    data="digits",
    model=ViTConfig(width=32, depth=2, heads=2, mlp_width=64, patch=(4, 4), dropout=0.1, extras=Extras(drop_path=0.1)),
    preprocess=Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,)),
    mixing=Mixing(mixup=0.2, cutmix=0.5),
    objective=Classify(label_smoothing=0.1),
    optim=Optim(lr=2e-3, warmup="2 steps"),
    ema=0.9,
    batch_size=64,
    length="12 steps",
    evaluate_every="5 steps",
    save_every="3 steps",
    hardware=Hardware(device="cpu", precision="fp32", compile="off", threads=1, workers=0),
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of the newest checkpoint, by file and name."""
    snapshot = checkpoints.newest(folder / "checkpoints", say=pytest.fail)
    assert snapshot is not None
    return {f"{file}/{name}": tensor for file, group in snapshot.tensors.items() for name, tensor in group.items()}


def log(folder: Path) -> list[dict]:
    """The log without what a clock wrote."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("images_per_s", "peak_share", "seconds")} for row in rows]


def assert_same_run(one: Path, other: Path) -> None:
    ours, theirs = weights(one), weights(other)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert log(one) == log(other)


@contextlib.contextmanager
def no_report() -> Iterator[None]:
    """Trainings inside draw no report: it takes ten times as long as a tiny run, and other tests look at it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(outcome, "write_report", lambda *nothing: None)
        yield


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch, number: int = signal.SIGTERM) -> None:
    """Sends this process a signal in the middle of the given step."""
    learn = loop.learn

    def learn_and_signal(setup, state, *rest):
        learn(setup, state, *rest)
        if state.step == step:
            os.kill(os.getpid(), number)

    monkeypatch.setattr(loop, "learn", learn_and_signal)
