"""The loop on real digits: it learns, it resumes to the same bits, and it stops before a NaN."""

import dataclasses
import json
import signal
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support.runs import TINY, assert_same_run, log, stop_after, weights
from vitrail import config
from vitrail.batches.batch import Batch
from vitrail.batches.mixing import Mixing
from vitrail.checkpoints.write import list_steps
from vitrail.errors import ConfigError, NonFiniteError, Preempted, RunInUse, StorageError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.objectives.classify import Classify
from vitrail.processes.signals import StopSignals
from vitrail.training import loop
from vitrail.training.micro_batches import key_stochastic_depth
from vitrail.training.nan_guard import FiniteGuard
from vitrail.training.run import Optim, Run
from vitrail.training.run_folder import RunFolder
from vitrail.training.setup import build_model, prepare
from vitrail.training.verify import verify_run

pytestmark = pytest.mark.flow


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop.train(TINY, out=tmp_path_factory.mktemp("whole") / "run", quiet=True).folder


@pytest.mark.parametrize("step", [1, 3, 5, 7, 11])
def test_stop_and_resume_is_bit_equal_to_never_stopping(
    step: int, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, optimiser, average and log; with dropout, stochastic depth, mixup and cutmix on."""
    with monkeypatch.context() as patched:
        stop_after(step, patched)
        with pytest.raises(Preempted, match=f"after step {step} of 12") as stopped:
            loop.train(TINY, out=tmp_path / "run", quiet=True)
    assert stopped.value.exit_code == 143
    loop.train(None, out=tmp_path / "run", resume=True, quiet=True)
    assert_same_run(uninterrupted, tmp_path / "run")


def test_a_second_run_from_the_same_seed_is_the_same_and_another_seed_is_not(
    uninterrupted: Path, tmp_path: Path
) -> None:
    torch.randn(7)  # what the global generator did before does not matter
    loop.train(TINY, out=tmp_path / "same", quiet=True)
    assert_same_run(uninterrupted, tmp_path / "same")
    loop.train(dataclasses.replace(TINY, seed=1), out=tmp_path / "other", quiet=True)
    assert log(tmp_path / "other") != log(uninterrupted)


def test_a_finished_run_resumed_changes_nothing(uninterrupted: Path) -> None:
    before = weights(uninterrupted), log(uninterrupted)
    loop.train(None, out=uninterrupted, resume=True, quiet=True)
    assert log(uninterrupted) == before[1]
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in weights(uninterrupted).items())


def test_ctrl_c_writes_a_checkpoint_and_exits_130(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_after(4, monkeypatch, signal.SIGINT)
    with pytest.raises(Preempted) as stopped:
        loop.train(TINY, out=tmp_path / "run", quiet=True)
    assert stopped.value.exit_code == 130
    assert list_steps(tmp_path / "run" / "checkpoints")[-1] == 4


def test_accumulation_keeps_the_gradient(tmp_path: Path) -> None:
    """Four micro-batches of 16 learn what one batch of 64 learns (no random regularisation, float64-free: 1e-5)."""
    plain = dataclasses.replace(
        TINY, model=zoo.change(TINY.model, dropout=0.0, drop_path=0.0), mixing=Mixing(), length="5 steps"
    )
    parts = dataclasses.replace(plain, hardware=dataclasses.replace(plain.hardware, micro_batch=16))
    one = loop.train(plain, out=tmp_path / "one", quiet=True).folder
    four = loop.train(parts, out=tmp_path / "four", quiet=True).folder
    for row, other in zip(log(one), log(four), strict=True):
        if "loss" in row:
            assert row["loss"] == pytest.approx(other["loss"], rel=1e-5)


def test_nan_stops_before_the_weights_and_names_step_and_samples(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite learning rate poisons step 7's forward; the checkpoint of step 6 stays the newest."""
    learn, seen = loop.learn, {}

    def poisoned(setup, state, batch, *rest):
        if state.step == 7:
            seen["keys"], seen["before"] = batch.keys, [p.detach().clone() for p in state.model.parameters()]
            seen["state"] = state
            batch = dataclasses.replace(batch, targets=torch.full((len(batch.keys), 10), torch.nan))
        learn(setup, state, batch, *rest)

    monkeypatch.setattr(loop, "learn", poisoned)
    run = dataclasses.replace(TINY, mixing=Mixing())
    with pytest.raises(NonFiniteError, match="not finite at step 7") as stopped:
        loop.train(run, out=tmp_path / "run", quiet=True)
    assert seen["keys"][0] in str(stopped.value)
    assert json.loads((tmp_path / "run/nonfinite.json").read_text()) == {"step": 7, "samples": list(seen["keys"])}
    assert all(torch.equal(a, b) for a, b in zip(seen["before"], seen["state"].model.parameters(), strict=True))
    assert list_steps(tmp_path / "run/checkpoints")[-1] == 6


def test_eight_images_are_learnt_by_heart(tmp_path: Path) -> None:
    run = dataclasses.replace(
        TINY,
        model=zoo.change(TINY.model, dropout=0.0, drop_path=0.0),
        mixing=Mixing(),
        objective=Classify(),
        holdout=0.995,  # 8 or so images to learn from
        batch_size=8,
        ema=None,
        optim=Optim(lr=3e-3, weight_decay=0.0, schedule="constant", warmup="0 steps"),
        length="120 steps",
        evaluate_every="120 steps",
        save_every="120 steps",
    )
    folder = loop.train(run, out=tmp_path / "run", quiet=True).folder
    last = [row for row in log(folder) if "loss" in row][-1]
    assert last["loss"] < 0.05 and last["accuracy"] == 1.0


def test_frozen_backbone_changes_only_the_head(tmp_path: Path) -> None:
    run = dataclasses.replace(
        TINY, ema=None, optim=Optim(freeze="backbone", lr=0.1, name="sgd", weight_decay=0.0, warmup="0 steps")
    )
    folder = loop.train(run, out=tmp_path / "probe", quiet=True).folder
    start = loop.train(
        dataclasses.replace(run, length="1 steps", optim=dataclasses.replace(run.optim, lr=0.0)),
        out=tmp_path / "start",
        quiet=True,
    ).folder
    probed, fresh = (safetensors.torch.load_file(one / "last/model.safetensors") for one in (folder, start))
    assert {name.split(".")[0] for name in probed if not torch.equal(probed[name], fresh[name])} == {"head"}


def test_two_processes_cannot_hold_one_folder(tmp_path: Path) -> None:
    with RunFolder.create(TINY, tmp_path / "run"), pytest.raises(RunInUse, match="another process"):
        RunFolder.create(TINY, tmp_path / "run").__enter__()


@pytest.mark.parametrize("name", [".lock", "run.json", "metrics.jsonl", "checkpoints", "best"])
def test_a_link_in_a_run_folder_is_not_written_through(name: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run", TINY)
    (tmp_path / "run" / name).symlink_to(outside)
    with pytest.raises(StorageError, match=f"{name} is a link"), folder:
        pass
    assert outside.read_text() == "mine"


def test_a_folder_with_a_run_is_not_overwritten(uninterrupted: Path) -> None:
    with pytest.raises(ConfigError, match="already holds a run"):
        loop.train(TINY, out=uninterrupted, quiet=True)


def test_micro_batches_must_be_equal(tmp_path: Path) -> None:
    run = dataclasses.replace(TINY, hardware=dataclasses.replace(TINY.hardware, micro_batch=24))
    with pytest.raises(ConfigError, match="does not divide batch_size = 64"):
        loop.train(run, out=tmp_path / "run", quiet=True)


def test_a_run_does_not_mix_with_other_files(tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "cat"
    photos.mkdir(parents=True)
    with pytest.raises(ConfigError, match=r"photos holds folders or images already \(cat\); allowed: a new folder"):
        loop.train(TINY, out=photos.parent, quiet=True)
    assert [path.name for path in photos.parent.iterdir()] == ["cat"]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "nohup.out").touch()
    loop.train(TINY, out=tmp_path / "run", quiet=True)


def test_a_run_that_never_began_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        loop.train(dataclasses.replace(TINY, preprocess=Preprocess(size=(9, 9))), out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


MIXED = dataclasses.replace(
    TINY,
    model=zoo.change(TINY.model, dropout=0.0, drop_path=0.4),
    mixing=Mixing(mixup=0.2, cutmix=1.0),
    batch_size=8,
    length="20 steps",
)


def in_micro_batches(size: int, run: Run = MIXED) -> Run:
    return dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, micro_batch=size))


def losses(folder: Path) -> list[float]:
    return [row["loss"] for row in log(folder) if "loss" in row]


@pytest.mark.parametrize("changes", [{}, {"checkpoint_activations": True}])
def test_mixing_and_stochastic_depth_are_the_same_for_every_micro_batch(changes: dict, tmp_path: Path) -> None:
    run = dataclasses.replace(MIXED, hardware=dataclasses.replace(MIXED.hardware, **changes))
    run = dataclasses.replace(run, length="8 steps", evaluate_every="8 steps", save_every="8 steps")
    whole, *others = (
        losses(loop.train(in_micro_batches(size, run), out=tmp_path / str(size), quiet=True).folder)
        for size in (8, 4, 1)
    )
    for other in others:
        assert other == pytest.approx(whole, rel=1e-5)


def test_old_rules_draw_for_each_micro_batch(tmp_path: Path) -> None:
    old = dataclasses.replace(MIXED, rules=1)
    whole, parts = (
        losses(loop.train(in_micro_batches(size, old), out=tmp_path / str(size), quiet=True).folder) for size in (8, 2)
    )
    assert parts != pytest.approx(whole, rel=1e-3)


def test_a_run_goes_on_with_another_micro_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = loop.train(MIXED, out=tmp_path / "whole", quiet=True).folder
    with monkeypatch.context() as patched:
        stop_after(7, patched)
        with pytest.raises(Preempted):
            loop.train(MIXED, out=tmp_path / "run", quiet=True)
    stored = RunFolder.read(tmp_path / "run")
    loop.train(in_micro_batches(2, stored), out=tmp_path / "run", resume=True, quiet=True)
    assert losses(tmp_path / "run") == pytest.approx(losses(whole), rel=1e-5)


def test_each_image_loses_branches_by_its_own_draws() -> None:
    """The share of lost branches is the probability; both branches of a block, and two epochs, have draws of their own."""
    setup = prepare(MIXED)
    lost = []
    for epoch in range(200):
        numbers = np.stack([np.full(8, epoch), np.arange(8)], axis=1)
        batch = Batch(
            torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.zeros(8, dtype=torch.long), ("",) * 8, numbers=numbers
        )
        with key_stochastic_depth(setup, batch):
            lost.append([branch.draws >= 1 - branch.probability for branch in setup.branches])
    first, second = (torch.stack([row[branch] for row in lost]).float() for branch in range(2))  # epochs × images
    assert first.mean() == pytest.approx(0.4, abs=0.05) and second.mean() == pytest.approx(0.4, abs=0.05)
    assert abs(torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]) < 0.1
    assert (first[0] != first[1]).any()
    assert all(branch.draws is None for branch in setup.branches)


def test_settings_that_changed_under_a_checkpoint_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run.json of another run, with its seal; and one edited by hand, without: both are refused, and go with `override`."""
    folder = tmp_path / "run"
    stop_after(5, monkeypatch)
    with pytest.raises(Preempted):
        loop.train(TINY, out=folder, quiet=True)
    monkeypatch.undo()
    stored = RunFolder.read(folder)
    for other in (
        dataclasses.replace(stored, seed=7),
        dataclasses.replace(stored, optim=Optim(lr=5e-4, warmup="2 steps")),
    ):
        for seal in (True, False):
            facts = json.loads(config.sealed_json(other))
            (folder / "run.json").write_text(json.dumps(facts if seal else {k: facts[k] for k in facts if k != "seal"}))
            with pytest.raises(
                ConfigError, match=r"other settings: (seed 0 → 7|optim.lr 0.002 → 0.0005); .*in run.json too"
            ):
                loop.train(None, out=folder, resume=True, quiet=True)
    assert verify_run(folder).changed == ("optim.lr",)
    loop.train(None, out=folder, resume=True, override=True, quiet=True)
    assert RunFolder.read(folder).optim.lr == 5e-4 and not verify_run(folder).changed


def test_the_first_step_learns_but_not_by_old_rules(tmp_path: Path) -> None:
    for rules in (1, 2):
        run = dataclasses.replace(TINY, length="1 step", save_every="1 step", evaluate_every="1 step", rules=rules)
        result = loop.train(run, out=tmp_path / str(rules), quiet=True)
        before = build_model(result.setup.run)[0].state_dict()
        after = weights(tmp_path / str(rules))
        assert all(torch.equal(after[f"model/{name}"], tensor) for name, tensor in before.items()) == (rules == 1)


def test_old_runs_keep_old_rules(tmp_path: Path) -> None:
    loop.train(TINY, out=tmp_path / "run", quiet=True)
    path = tmp_path / "run" / "run.json"
    stored = json.loads(path.read_text())
    assert stored.pop("rules") == 2 and stored.pop("seal")
    path.write_text(json.dumps(stored))
    assert RunFolder.read(tmp_path / "run").rules == 1


def test_a_batch_without_a_readable_image_is_passed_over() -> None:
    """Batch size 1 and an unreadable image: KeyError 'loss', and again at every resume."""
    setup = prepare(TINY)
    state, before = setup.state(), {name: tensor.clone() for name, tensor in setup.model.state_dict().items()}
    size = setup.run.preprocess.size
    empty = Batch(torch.zeros(0, 1, *size, dtype=torch.uint8), torch.zeros(0, dtype=torch.long), ())
    loop.learn(setup, state, empty, FiniteGuard(setup.device, None), StopSignals())
    assert state.step == 1 and state.ledger.value(setup.world) == 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in setup.model.state_dict().items())
