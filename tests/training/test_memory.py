"""The memory of a step is counted before it is allocated. A run that does not fit is not started."""

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.runs import TINY
from vitrail import machine
from vitrail.batches.batch import Batch
from vitrail.errors import MemoryRanOut, recognise_error
from vitrail.models import zoo
from vitrail.objectives.classify import Classify
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.training import memory
from vitrail.training.setup import prepare

GIB = 2**30


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("name", "objective"), [("vit-ti/16", Classify()), ("r50x1", Classify()), ("vit-ti/16", Reconstruct())]
)
def test_the_count_is_what_autograd_keeps(name: str, objective) -> None:
    """Within 15 %: attention falls back to a plainer kernel on the meta device."""
    config = dataclasses.replace(zoo.config(name), image=(96, 64), classes=7)
    learner = objective.build(zoo.build(config, generator=torch.Generator().manual_seed(0))).train()
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        batch = Batch(torch.rand(2, 3, 96, 64), torch.zeros(2, dtype=torch.long), ("", ""))
        objective(learner, batch, torch.Generator().manual_seed(0))
    for parameter in learner.parameters():
        kept.pop(parameter.untyped_storage()._cdata, None)
    real = sum(storage.nbytes() for storage in kept.values()) / 2
    assert memory.activation_bytes(objective, config) == pytest.approx(real, rel=0.15)


@pytest.mark.oracle
def test_a_vit_keeps_sixteen_numbers_for_each_token_channel_and_block() -> None:
    config = dataclasses.replace(zoo.config("vit-s/16"), image=(96, 96))
    tokens = 37
    assert memory.activation_bytes(Classify(), config) == pytest.approx(4 * 16 * tokens * 384 * 12, rel=0.15)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 96), st.floats(0.05, 4))
def test_the_micro_batch_is_the_largest_divisor_that_fits(share: int, gib: float) -> None:
    run = dataclasses.replace(TINY, model=dataclasses.replace(zoo.config("vit-ti/16"), classes=2))
    try:
        found = memory.fit_micro_batch(run, share, gib * GIB)
    except MemoryRanOut:
        assert memory.training_bytes(run, 1) > gib * GIB
        return
    assert share % found == 0 and memory.training_bytes(run, found) <= gib * GIB
    larger = [size for size in range(found + 1, share + 1) if share % size == 0]
    assert all(memory.training_bytes(run, size) > memory.FILLED * gib * GIB for size in larger)


def test_a_batch_that_does_not_fit_is_parted_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory.training_bytes(prepare(TINY).run, 20)
    with monkeypatch.context() as patched:
        patched.setattr(machine, "memory", lambda device: machine.Memory(GIB, int(needed / memory.FILLED)))
        setup = prepare(TINY)
    assert setup.micro_batch == 16 and setup.run.batch_size == 64
    assert any("16 images go through the model at once" in note for note in setup.notes)


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory", lambda device: machine.Memory(GIB, 2**16))
    with pytest.raises(MemoryRanOut, match=r"one image at once needs about .* GiB, and 0\.0 GiB are available"):
        prepare(TINY)


def test_memory_is_what_can_be_had(tmp_path: Path) -> None:
    found = machine.memory()
    assert 0 < found.available <= found.total
    for name, value in {"max": "1000000", "current": "900000", "stat": "anon 5\ninactive_file 300000"}.items():
        (tmp_path / f"memory.{name}").write_text(value)
    assert machine._group_memory(tmp_path) == 400_000
    (tmp_path / "memory.max").write_text("max")
    assert machine._group_memory(tmp_path) > 2**60


def test_bytes_are_said_in_gib() -> None:
    error = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 37632000000 bytes.")
    assert "35.0 GiB more were asked for" in str(recognise_error(error, "training", "less"))
