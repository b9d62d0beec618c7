"""The probe of a plan."""

import dataclasses

import pytest
import torch

from tests.support.objectives import TINY
from vitrail.hardware import Hardware
from vitrail.objectives.classify import Classify
from vitrail.training import plan as plans
from vitrail.training.setup import prepare


def test_a_step_of_several_parts_is_measured_by_one_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = Hardware(device="cpu", threads=1, workers=0, micro_batch=8)
    run = dataclasses.replace(TINY, objective=Classify(), batch_size=32, hardware=hardware)
    setup = prepare(run)
    before = {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    sizes: list[int] = []

    def learn(still, state, batch, guard, stop) -> None:
        sizes.append(len(batch))
        state.step += 1

    with monkeypatch.context() as patch:
        patch.setattr(plans, "learn", learn)
        clock = iter(range(1000))
        patch.setattr(plans.time, "perf_counter", lambda: float(next(clock)))
        seconds, _ = plans.probe(setup)
    assert set(sizes) == {8} and seconds == 4  # four parts of one tick each
    plans.plan_of(setup)
    assert all(torch.equal(before[name], tensor) for name, tensor in setup.model.state_dict().items())
