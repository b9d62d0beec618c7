"""The speed that a training reports."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitrail import machine
from vitrail.training.speed import Speed


def test_no_step_is_faster_than_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "peak_flops", lambda device, dtype: 1e-3)  # as beside very much other work
    setup: Any = SimpleNamespace(
        device=torch.device("cpu"), dtype=torch.float32, flops_per_image=1e6,
        world=SimpleNamespace(size=1), run=SimpleNamespace(batch_size=8),
    )  # fmt: skip
    speed = Speed(setup)
    speed.step()
    assert speed.read()["peak_share"] == 1
    speed.step()
    assert 0 < speed.read()["peak_share"] <= 1
