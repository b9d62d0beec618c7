"""NaN at any step, ranks lost at any moment, signals to a whole group of processes, every key of a run changed."""

import dataclasses
import json
import math
import os
import random
import shutil
import signal
import time
import traceback
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.ranks import ORDERED, launch
from tests.support.runs import TINY, no_report
from tests.support.trials import alive, forget_servers, in_child, poisoned_at
from vitrail import config
from vitrail.batches.mixing import Mixing
from vitrail.batches.order import Order
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints.write import list_steps
from vitrail.errors import ConfigError, NonFiniteError, StorageError
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.training import loop, optim
from vitrail.training.ema import Ema
from vitrail.training.resume_rules import check_changes, kind_in, leaves
from vitrail.training.run import Optim, Run
from vitrail.training.run_folder import RunFolder

pytestmark = pytest.mark.fault

# --- T6


def test_a_nan_at_any_step_stops_there_and_never_reaches_a_checkpoint(memory: Path, sweep: int) -> None:
    """2 random steps, 30 under `make deep`: exit 70, the samples named, all that is on the disk finite."""
    run, rng = dataclasses.replace(TINY, mixing=Mixing(), length="40 steps"), random.Random(0)
    keys = open_data("digits").train.keys
    for trial in range(30 if sweep > 1 else 2):
        step, folder = rng.randrange(1, 40), memory / f"nan-{trial}"

        def work(step: int = step, folder: Path = folder) -> None:
            poisoned_at(step)
            loop.train(run, out=folder, quiet=True)

        assert os.waitstatus_to_exitcode(os.waitpid(in_child(work), 0)[1]) == NonFiniteError.exit_code
        found = json.loads((folder / "nonfinite.json").read_text())
        _, samples = Order(len(keys), run.seed).at(np.arange(64 * step, 64 * (step + 1)))
        assert found == {"step": step, "samples": [keys[int(sample)] for sample in samples]}
        snapshot = checkpoints.newest(folder / "checkpoints", say=pytest.fail)
        last = snapshot.step if snapshot else 0
        assert last == step // 3 * 3
        tensors = [tensor for group in (snapshot.tensors if snapshot else {}).values() for tensor in group.values()]
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors)
    print(f"{trial + 1} of {trial + 1} stopped at the step of the NaN, their checkpoints finite")


@pytest.mark.deep
@pytest.mark.timeout(7200)
def test_a_nan_on_one_of_two_ranks_stops_both_at_that_step(tmp_path: Path) -> None:
    """Each rank names its own samples, in its own file."""
    run = dataclasses.replace(ORDERED, mixing=Mixing(), hardware=TINY.hardware, length="60 steps")
    rng = random.Random(1)
    for trial in range(10):
        step, folder = rng.randrange(1, 50), tmp_path / str(trial)
        for process in launch(run, folder, 2, "--poison", str(step), "1"):
            _, said = process.communicate(timeout=300)
            assert process.returncode == 70 and f"not finite at step {step}".encode() in said, said.decode()[-2000:]
        assert list_steps(folder / "checkpoints")[-1:] == ([step // 3 * 3] if step >= 3 else [])
        found = [json.loads((folder / f"nonfinite-{rank}.json").read_text()) for rank in range(2)]
        assert [one["step"] for one in found] == [step, step]
        assert not {*found[0]["samples"]} & {*found[1]["samples"]}


# --- T9


@pytest.mark.deep
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("how", "times"), [(signal.SIGKILL, 40), (signal.SIGSTOP, 10)])
def test_a_rank_lost_at_any_moment_ends_all(how: int, times: int, tmp_path: Path) -> None:
    """All others exit by themselves, within 15 s of a death and at the time limit of a silence, here 20 s; the run goes on."""
    run, rng, slowest = dataclasses.replace(ORDERED, length="5000 steps"), random.Random(int(how)), 0.0
    for trial in range(times):
        folder = tmp_path / str(trial)
        processes = launch(run, folder, 2, "--patience", "20")
        try:
            while not list_steps(folder / "checkpoints"):
                assert all(process.poll() is None for process in processes)
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 1))
            lost = rng.randrange(2)
            processes[lost].send_signal(how)
            began = time.monotonic()
            _, said = processes[1 - lost].communicate(timeout=100)
            slowest = max(slowest, time.monotonic() - began)
            assert processes[1 - lost].returncode == 70, said.decode()[-3000:]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        assert checkpoints.newest(folder / "checkpoints", say=pytest.fail) is not None
    print(f"{times} ranks lost to {signal.Signals(how).name}, the other gone after at most {slowest:.1f} s")


# --- T4, with loader processes, to the whole group


@pytest.fixture(scope="module")
def photos(memory: Path) -> Run:
    """A run on pictures that loader processes decode."""
    draws = np.random.default_rng(0)
    for index in range(600):
        path = memory / "photos" / f"class{index % 3}" / f"{index:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(path)
    hardware = dataclasses.replace(TINY.hardware, workers=2)
    preprocess = Preprocess(size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    run = dataclasses.replace(
        TINY, data=str(memory / "photos"), preprocess=preprocess, hardware=hardware, batch_size=32
    )
    return dataclasses.replace(run, length="60 steps", evaluate_every="20 steps")


@pytest.mark.timeout(1800)
def test_a_signal_to_the_group_with_loader_processes(photos: Run, memory: Path, sweep: int) -> None:
    """2 signals, 40 under `make deep`, of three kinds: a checkpoint, the right exit code, no process left."""
    rng, stopped, slowest = random.Random(2), 0, 0.0
    for trial in range(40 if sweep > 1 else 2):
        number = rng.choice([signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
        folder = memory / f"group-{trial}"

        def work(folder: Path = folder) -> None:
            os.setpgid(0, 0)
            forget_servers()
            with no_report():
                try:
                    loop.train(photos, out=folder, quiet=True)
                except BaseException:
                    folder.with_suffix(".txt").write_text(traceback.format_exc())
                    raise

        pid = in_child(work)
        while not (folder / "run.json").exists():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 2))
        began = time.monotonic()
        os.killpg(pid, number)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        slowest = max(slowest, time.monotonic() - began)
        assert code in (0, 130 if number == signal.SIGINT else 143), folder.with_suffix(".txt").read_text()
        stopped += code != 0
        assert checkpoints.newest(folder / "checkpoints", say=pytest.fail) is not None
        deadline = time.monotonic() + 60
        while left := alive(pid):  # the loader processes see their pipe close
            assert time.monotonic() < deadline, f"left in the group: {left}"
            time.sleep(0.05)
    print(f"{stopped} of {trial + 1} stopped, the slowest took {slowest:.2f} s")


# --- T11


def others(value: object) -> list[object]:
    """Values of the same kind."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value, value - 1]
    if isinstance(value, float):
        return [value / 2, value + 0.25, 0.5]
    if isinstance(value, list):
        return [
            [one / 2 for one in value] if all(isinstance(one, float) for one in value) else [2 * one for one in value]
        ]
    words = (
        "none cosine linear adam on bf16 sigmoid runs/x backbone cls mean class bicubic crop border gelu-tanh pooled"
    )
    return ["3 steps", "2 steps", *words.split(), "logistic", "loss", "ddp", True, 0.5, 3, [0.5, 1.0], [2, 9]]


def test_every_key_of_a_run_changed_is_refused_or_said() -> None:
    """Each leaf is given other values until one makes a Run; then it passes with a word, or it is refused by name."""
    plain, counts = config.to_dict(TINY), {"said": 0, "refused": 0, "no other value": 0}
    for key, value in leaves(plain):
        for other in others(value):
            tree = json.loads(json.dumps(plain))
            *path, last = key.split(".")
            part = tree
            for name in path:
                part = part[name]
            part[last] = other
            try:
                after = config.from_dict(Run, tree)
            except ConfigError:
                continue
            if after == TINY:
                continue
            if kind_in(key, after) == "trajectory":
                with pytest.raises(ConfigError, match=rf"{key.split('.')[0]}"):
                    check_changes(TINY, after)
                counts["refused"] += 1
            else:
                run, said = check_changes(TINY, after)
                assert run == after and any(key in sentence for sentence in said)
                counts["said"] += 1
            break
        else:
            counts["no other value"] += 1
    assert counts["refused"] >= 30 and counts["said"] >= 8 and counts["no other value"] <= 8, counts
    print(counts)


# --- T14


@pytest.mark.parametrize("name", ["cosine", "linear", "rsqrt", "stair", "constant"])
def test_learning_rates_depend_on_nothing_but_the_step(name: str) -> None:
    """A resumed run makes a new schedule and asks it from the middle: the same numbers, whoever asked what before."""
    rng = random.Random(0)
    for _ in range(20):
        settings = Optim(schedule=name, lr=rng.uniform(1e-5, 1), warmup=f"{rng.randint(0, 50)} steps")
        made = [optim.schedule(settings, batch_size=64, steps_per_epoch=10.5, total=100) for _ in range(2)]
        continuous = [made[0](step) for step in range(100)]
        cut = rng.randrange(100)
        assert [made[1](step) for step in range(cut, 100)] == continuous[cut:]
        assert all(math.isfinite(lr) and lr >= 0 for lr in continuous)


def test_an_average_taken_up_again_is_the_average() -> None:
    """Saved and restored at any step, by bits."""
    torch.manual_seed(0)
    model, moves = torch.nn.Linear(5, 3), torch.randn(40, 3, 5)
    for cut in range(0, 40, 7):
        torch.nn.init.ones_(model.weight)
        ema = Ema(model, 0.9)
        for step, move in enumerate(moves, start=1):
            model.weight.data += move
            if step == cut:
                state, ema = ema.model.state_dict(), Ema(model, 0.9)
                ema.model.load_state_dict(state)
            ema.update(model, step)
            if cut == 0 and step == 40:
                wanted = ema.model.weight.clone()
        assert torch.equal(ema.model.weight, wanted)


@pytest.mark.parametrize("moved", [True, False], ids=["moved", "removed"])
def test_a_run_folder_that_went_is_said_at_the_next_save(moved: bool, tmp_path: Path) -> None:
    run = RunFolder.create(Run(), tmp_path / "run")
    with pytest.raises(StorageError, match=r"removed or moved .* lost is all since step 3"), run:
        run.check_place("nothing")
        run.path.rename(tmp_path / "elsewhere") if moved else shutil.rmtree(run.path)
        run.path.mkdir()  # as a save would
        run.check_place("all since step 3")
