"""Checkpoints of another run: of other tensors, types or optimiser. They are named, and nothing is touched."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import vitrail
from tests.support.runs import TINY, assert_same_run
from vitrail.checkpoints import read as checkpoints
from vitrail.errors import CheckpointError, Preempted, WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.processes.world import world
from vitrail.training import extract_weights as export
from vitrail.training import loop
from vitrail.training.run import Optim, Run
from vitrail.training.setup import prepare
from vitrail.training.state import State

pytestmark = pytest.mark.fault

SHORT = dataclasses.replace(TINY, length="3 steps")
ENGINES = {"whole": "auto", "in shards": "fsdp"}


def engine(run: Run, kind: str) -> Run:
    return dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, parallel=ENGINES[kind]))


@pytest.fixture(scope="module", params=ENGINES)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop.train(engine(SHORT, kind), out=tmp_path_factory.mktemp("other") / "run", quiet=True).folder


def held(state: State) -> dict[str, torch.Tensor]:
    groups = state.tensors().items()
    return {f"{group}/{name}": tensor.clone() for group, tensors in groups for name, tensor in tensors.items()}


def described(group: Any) -> dict[str, torch.Tensor]:
    return group if isinstance(group, dict) else group.described


def named(group: Any, key: str) -> str:
    return next(name for name in described(group) if name.endswith(key))


CHANGES: dict[str, tuple[Callable[[Any, str], Any], str]] = {
    "another shape": (
        lambda group, name: group.update({name: torch.zeros(7, 3)}),
        "{} is 7×3 float32, here 32×1×4×4 float32",
    ),
    "another type": (
        lambda group, name: group.update({name: group[name].double()}),
        "{} is 32×1×4×4 float64, here 32×1×4×4 float32",
    ),
    "missing": (lambda group, name: group.pop(name), "{} is missing"),
}


@pytest.mark.parametrize("where", ["model", "ema", "optimizer"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_of_other_tensors_is_named_and_nothing_is_touched(
    change: str, where: str, kind: str, folder: Path
) -> None:
    run = engine(SHORT, kind)
    with world(torch.device("cpu"), parallel=run.hardware.parallel) as ranks:
        state = prepare(run, ranks).state()
        snapshot = checkpoints.newest(folder / "checkpoints", say=pytest.fail)
        name = named(snapshot.tensors[where], "patch_embed.weight:exp_avg" if where == "optimizer" else "embed.weight")
        alter, sentence = CHANGES[change]
        alter(described(snapshot.tensors[where]), name)
        before = held(state)
        with pytest.raises(CheckpointError) as met:
            state.restore(snapshot, ranks)
        assert sentence.format(f"{where}/{name}") in str(met.value) and "in 1 tensor" in str(met.value)
        assert state.step == 0 and not any(state.optimizer.state.values())
        assert all(torch.equal(tensor, before[key]) for key, tensor in held(state).items())


def test_a_tensor_too_many_and_a_group_too_few(folder: Path, kind: str) -> None:
    state = prepare(SHORT).state()
    found = checkpoints.newest(folder / "checkpoints", say=pytest.fail)
    groups = {group: dict(tensors) for group, tensors in found.tensors.items()}
    with pytest.raises(CheckpointError, match=r"in 1 tensors: optimizer/gone:exp_avg is not of this run; resume"):
        more = groups["optimizer"] | {"gone:exp_avg": torch.ones(2)}
        state.restore(dataclasses.replace(found, tensors=groups | {"optimizer": more}))
    del groups["ema"]
    with pytest.raises(CheckpointError, match=r"ema/\S+ is missing and \d+ more; resume with the run's own settings"):
        state.restore(dataclasses.replace(found, tensors=groups))


def test_a_run_stopped_before_its_first_step_goes_on(folder: Path, kind: str, tmp_path: Path) -> None:
    """Its optimiser holds nothing yet."""
    with pytest.raises(Preempted, match="after step 0 of 3"):
        loop.train(
            engine(SHORT, kind),
            out=tmp_path / "run",
            announce=lambda setup: signal.raise_signal(signal.SIGTERM),
            quiet=True,
        )
    with pytest.raises(WeightsError, match=r"its first evaluation.*`vitrail run export .*run --out NAME`"):
        vitrail.load(tmp_path / "run")
    loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert_same_run(folder, tmp_path / "run")


OTHERS = {
    "a larger image": dataclasses.replace(SHORT, preprocess=Preprocess(size=(12, 12), mean=(0.5,), std=(0.5,))),
    "another optimiser": dataclasses.replace(SHORT, optim=Optim(name="sgd", lr=0.1, warmup="2 steps")),
    "no average": dataclasses.replace(SHORT, ema=None),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_refused_resume_leaves_the_run_as_it_was(other: str, folder: Path, kind: str) -> None:
    """--override lets settings through that the checkpoint then cannot follow; run.json still says what ran."""
    asked = (folder / "run.json").read_bytes()
    with pytest.raises(CheckpointError, match="does not fit this run"):
        loop.train(engine(OTHERS[other], kind), out=folder, resume=True, override=True, quiet=True)
    assert (folder / "run.json").read_bytes() == asked
    assert export.export_run(folder, folder.with_name("exported"), say=pytest.fail) == 3
