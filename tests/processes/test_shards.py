"""FSDP2 on CPU with gloo: the curve of one process, checkpoints that any number of ranks reads, and no bit of difference."""

import dataclasses
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch

import vitrail
from tests.support.ranks import PLAIN, assert_done, codes, fork, start, trained
from tests.support.runs import log, weights
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints import sharded
from vitrail.checkpoints.write import list_steps
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models.hybrid import HybridConfig
from vitrail.models.maxvit import MaxViTConfig
from vitrail.models.resnet import ResNetConfig
from vitrail.models.vit import ViTConfig
from vitrail.objectives.contrastive import Contrast
from vitrail.objectives.masked_patches import MaskedPatches
from vitrail.objectives.reconstruct import Reconstruct
from vitrail.processes.world import world
from vitrail.training import loop
from vitrail.training.run import Run
from vitrail.training.setup import prepare

pytestmark = [pytest.mark.flow, pytest.mark.timeout(600)]


def on(run: Run, parallel: str, **changes) -> Run:
    return dataclasses.replace(run, hardware=dataclasses.replace(run.hardware, parallel=parallel, **changes))


SHORT = dataclasses.replace(PLAIN, length="12 steps", evaluate_every="6 steps", save_every="4 steps")
SHARDED = on(SHORT, "fsdp", micro_batch=16)


def assert_same_curve(one: Path, other: Path, loss: float = 1e-5) -> None:
    ours, theirs = log(one), log(other)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    for row, twin in zip(ours, theirs, strict=True):
        for name in ("loss", "grad_norm", "held_out_nll"):
            if name in row:
                assert twin[name] == pytest.approx(row[name], rel=loss if name == "loss" else 1e-3), (row["step"], name)
        assert row.get("ledger") == twin.get("ledger")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return loop.train(SHORT, out=tmp_path_factory.mktemp("alone") / "run", quiet=True).folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(SHARDED, tmp_path_factory.mktemp("two") / "run", 2)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_shards_learn_the_curve_of_one_process(size: int, alone: Path, two: Path, tmp_path: Path) -> None:
    """Gradient accumulation, clipping and the average on; the bundles are whole, and their scores the log's."""
    run = two if size == 2 else trained(SHARDED, tmp_path / "run", size)
    assert_same_curve(alone, run)
    ours, theirs = (weights(folder) for folder in (alone, run))
    assert {name: tensor.shape for name, tensor in ours.items()} == {name: theirs[name].shape for name in theirs}
    kept, ema = vitrail.load(run / "last").state_dict(), checkpoints.newest(run / "checkpoints", say=pytest.fail)
    assert all(torch.equal(tensor, ema.tensors["ema"][name]) for name, tensor in kept.items())


def test_nothing_of_a_checkpoint_is_held_twice(two: Path) -> None:
    """Each rank's file has its share: two halves, every tensor once."""
    newest = two / "checkpoints" / "step-00000012"
    assert sorted(path.name for path in newest.iterdir()) == [
        "manifest.json", "shard-00000.safetensors", "shard-00001.safetensors", "state.json",
    ]  # fmt: skip
    sizes = [path.stat().st_size for path in sorted(newest.glob("shard-*"))]
    assert max(sizes) < 0.6 * sum(sizes)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs stopped after step 7: on one process, on two with all weights each, on two and on four in shards."""
    root = tmp_path_factory.mktemp("stopped")
    made = {f"fsdp-{size}": trained(SHARDED, root / f"fsdp-{size}", size, stop=7) for size in (2, 4)}
    made |= {f"ddp-{size}": trained(SHORT, root / f"ddp-{size}", size, stop=7) for size in (1, 2)}
    return made


SOME = [
    ("fsdp-2", ("auto", 1)),
    ("fsdp-2", ("fsdp", 4)),
    ("fsdp-4", ("fsdp", 1)),
    ("ddp-1", ("fsdp", 2)),
    ("fsdp-4", ("auto", 2)),
]


@pytest.mark.parametrize("saved", ["ddp-1", "ddp-2", "fsdp-2", "fsdp-4"])
@pytest.mark.parametrize("goes_on", [("auto", 1), ("auto", 2), ("fsdp", 1), ("fsdp", 2), ("fsdp", 4)])
def test_saved_on_some_ranks_resumed_on_others(
    saved: str, goes_on: tuple[str, int], stopped: dict[str, Path], alone: Path, tmp_path: Path, sweep: int
) -> None:
    """Resuming with another engine or number of ranks gives the curve of a run without a stop.

    Five of the twenty pairs run here, the rest under `make deep`.
    """
    parallel, size = goes_on
    if sweep == 1 and (saved, goes_on) not in SOME:
        pytest.skip("under make deep")
    shutil.copytree(stopped[saved], tmp_path / "run")
    assert list_steps(tmp_path / "run" / "checkpoints")[-1] == 7
    trained(on(SHORT, parallel), tmp_path / "run", size)
    assert_same_curve(alone, tmp_path / "run")


def test_stopped_and_resumed_shards_end_with_the_same_bits(stopped: dict[str, Path], two: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped["fsdp-2"], tmp_path / "run")
    ours, theirs = weights(two), weights(trained(SHARDED, tmp_path / "run", 2))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert log(two) == log(tmp_path / "run")


def test_a_damaged_shard_sends_all_ranks_to_the_checkpoint_before(two: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(two, folder)
    shard = folder / "checkpoints" / "step-00000012" / "shard-00001.safetensors"
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    trained(SHARDED, folder, 2)
    ours, theirs = weights(two), weights(folder)
    assert log(folder) == log(two)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_ranks_in_shards_killed_at_random_moments(two: Path, tmp_path: Path, sweep: int) -> None:
    """2 kills (20 under `make deep`) of one rank or the other while checkpoints are written: every run ends with the same bits."""
    import random

    rng, kills = random.Random(0), 0
    folder, number, often = tmp_path / "run", 0, dataclasses.replace(SHARDED, save_every="1 steps")
    while kills < 2 * sweep:
        ranks = start(often, folder, 2)
        while not (folder / "run.json").exists():
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1.5))
        os.kill(rng.choice(ranks).pid, signal.SIGKILL)
        ended = codes(ranks)
        kills += -signal.SIGKILL in ended
        if 0 in ended or kills == 2 * sweep or rng.random() < 0.3:
            trained(often, folder, 2)
            ours, theirs = weights(two), weights(folder)
            assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
            assert log(two) == log(folder)
            folder, number = tmp_path / f"run-{number}", number + 1
    print(f"{kills} kills, {number} runs bit-equal")


LARGER = dataclasses.replace(SHORT, preprocess=Preprocess(size=(32, 32), mean=(0.5,), std=(0.5,)))
HYBRID = HybridConfig(depths=(1,), widths=(128,), root_width=32, width=32, depth=1, heads=2, mlp_width=64)
CASES = {
    "reconstruct": dataclasses.replace(SHORT, objective=Reconstruct()),
    "masked patches": dataclasses.replace(SHORT, objective=MaskedPatches()),
    "contrast": dataclasses.replace(SHORT, objective=Contrast(hidden=32, width=16)),
    "sgd": dataclasses.replace(SHORT, optim=dataclasses.replace(SHORT.optim, name="sgd", layer_decay=0.8)),
    "lars": dataclasses.replace(SHORT, optim=dataclasses.replace(SHORT.optim, name="lars", lr=1.0)),
    "lamb": dataclasses.replace(SHORT, optim=dataclasses.replace(SHORT.optim, name="lamb", lr=0.01)),
    "resnet": dataclasses.replace(LARGER, model=ResNetConfig(depths=(1,), widths=(128,), root_width=32)),
    "hybrid": dataclasses.replace(LARGER, model=HYBRID),
    "maxvit": dataclasses.replace(LARGER, model=MaxViTConfig(depths=(1, 1), widths=(32, 32), stem=(32, 32))),
    "head alone": dataclasses.replace(SHORT, optim=dataclasses.replace(SHORT.optim, freeze="backbone")),
    "map and sincos": dataclasses.replace(
        SHORT, model=ViTConfig(width=32, depth=2, heads=2, mlp_width=64, patch=(2, 2), pool="map", positions="sincos")
    ),
}


@pytest.mark.deep
@pytest.mark.parametrize("case", CASES)
def test_what_learns_with_all_weights_learns_in_shards(case: str, tmp_path: Path) -> None:
    """Objectives with heads, teachers and decoders; frozen parts; SGD."""
    run = dataclasses.replace(CASES[case], length="4 steps", evaluate_every="4 steps", save_every="4 steps")
    one = trained(run, tmp_path / "one", 2)  # two ranks too: masks and negatives are those of a rank's micro-batch
    assert_same_curve_of_losses(one, trained(on(run, "fsdp"), tmp_path / "two", 2), 2e-5)


def assert_same_curve_of_losses(one: Path, other: Path, tolerance: float) -> None:
    ours, theirs = ([row["loss"] for row in log(folder) if "loss" in row] for folder in (one, other))
    assert len(ours) >= 4 and theirs == pytest.approx(ours, rel=tolerance)


@pytest.mark.parametrize("changes", [{"precision": "bf16"}, {"checkpoint_activations": True}])
def test_precision_and_checkpointed_activations(changes: dict, tmp_path: Path) -> None:
    run = on(dataclasses.replace(SHORT, length="4 steps"), "auto", **changes)
    one, two = trained(run, tmp_path / "one", 1), trained(on(run, "fsdp"), tmp_path / "two", 2)
    assert_same_curve_of_losses(one, two, 1e-5 if changes.get("checkpoint_activations") else 2e-3)


@pytest.mark.parametrize("case", ["maxvit", "contrast"])
def test_batch_norms_in_half_precision(case: str, tmp_path: Path) -> None:
    """On one rank, in shards or not, the same."""
    run = on(dataclasses.replace(CASES[case], length="4 steps", save_every="4 steps"), "auto", precision="bf16")
    one, two = (loop.train(on(run, how), out=tmp_path / how, quiet=True).folder for how in ("auto", "fsdp"))
    assert_same_curve_of_losses(one, two, 2e-3)


@pytest.mark.parametrize("parallel", ["auto", "fsdp"])
def test_all_ranks_evaluate_with_the_statistics_of_the_first(parallel: str, tmp_path: Path) -> None:
    """The saved weights are those that were scored, although each rank has seen other images."""

    def work(rank: int) -> None:
        with world(torch.device("cpu")) as ranks:
            setup = prepare(on(CASES["maxvit"], parallel), ranks)
            setup.forward.train()(torch.full((2, 1, 32, 32), 1.0 + rank))
            for name, buffer in setup.whole(setup.model).named_buffers():
                assert torch.equal(*ranks.gather(buffer)), name

    assert_done(fork(work, 2, tmp_path / "said"))


def test_deterministic_shards_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="deterministic"):
        loop.train(on(SHORT, "fsdp", deterministic=True), out=tmp_path / "run", quiet=True)


def test_held_out_scores_count_each_image_once_on_any_number_of_ranks(tmp_path: Path) -> None:
    """359 held-out images, a prime: 1, 2, 3 and 4 ranks give the same scores over all of them."""
    run = dataclasses.replace(SHORT, batch_size=60, length="6 steps", evaluate_every="6 steps", save_every="6 steps")
    folders = [trained(run, tmp_path / str(size), size) for size in (1, 2, 3, 4)]
    rows = [next(row for row in log(folder) if "held_out_top1" in row) for folder in folders]
    for row, folder in zip(rows, folders, strict=True):
        assert row["held_out_top1"] == rows[0]["held_out_top1"]
        assert row["held_out_nll"] == pytest.approx(rows[0]["held_out_nll"], rel=1e-4)
        assert vitrail.load(folder / "last").record.scores["images"] == 359


STATE = {
    "model/a": torch.arange(12.0).reshape(3, 4),
    "model/b": torch.tensor(7),
    "ema/c": torch.ones(5, dtype=torch.bfloat16),
    "ema/none": torch.zeros(0, 3),
}


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_torch_loads_what_we_write(tmp_path: Path) -> None:
    """The files are those of torch's Hugging Face storage: its own `load` reads them, cut anywhere along the first dimension."""
    import torch.distributed.checkpoint as dcp

    whole = sharded.list_parts({"": STATE}, leads=True)
    assert {name: tuple(part.shape) for name, (part, _) in whole.items()} == {
        f"/{name}": tuple(tensor.shape) for name, tensor in STATE.items()
    }
    rows = {name: part for name, (part, _) in whole.items() if part.ndim and len(part)}
    first = {name: (part[:2].clone(), [0] * part.ndim) for name, part in rows.items()}
    second = {name: (part[2:].clone(), [2] + [0] * (part.ndim - 1)) for name, part in rows.items()}
    rest = {name: found for name, found in whole.items() if name not in rows}
    sharded.write_parts(tmp_path / "shard-00000.safetensors", {**first, **rest})
    sharded.write_parts(tmp_path / "shard-00001.safetensors", second)
    found = {f"/{name}": torch.full_like(tensor, 9) for name, tensor in STATE.items()}
    dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(tmp_path)), no_dist=True)
    assert all(torch.equal(found[f"/{name}"], tensor) for name, tensor in STATE.items())


@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_we_read_what_torch_writes(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    dcp.save(
        dict(STATE), storage_writer=dcp.HuggingFaceStorageWriter(str(tmp_path), save_distributed=True), no_dist=True
    )
    found = sharded.open_groups(tmp_path)
    assert all(torch.equal(found[name[: name.index("/")]][name[name.index("/") + 1 :]], STATE[name]) for name in STATE)


@pytest.mark.parametrize("run", ["two", "alone"])
def test_export_makes_one_bundle_of_the_newest_checkpoint(
    run: str, request: pytest.FixtureRequest, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from vitrail.cli import main

    folder = request.getfixturevalue(run)
    assert main(["run", "export", str(folder), "--out", str(tmp_path / "out")]) == 0
    exported, last = (vitrail.load(path).state_dict() for path in (tmp_path / "out", folder / "last"))
    assert all(torch.equal(tensor, last[name]) for name, tensor in exported.items())
    assert vitrail.load(tmp_path / "out").record.classes == tuple("0123456789")
    assert "12" in capsys.readouterr().out
    assert main(["run", "export", str(folder)]) == 2
    assert main(["run", "export", str(folder), "--out", str(folder)]) == 78 and not (folder / "record.json").exists()
