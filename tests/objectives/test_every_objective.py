"""Every objective by the same contract: resumed to the same bits, over two ranks, compiled; an error names what does not fit."""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.objectives.test_pretraining import tensors
from tests.support.objectives import DIGITS, OBJECTIVES, TINY, runs, teacher
from tests.support.ranks import trained
from tests.support.runs import log
from tests.support.stopping import stopped_at
from vitrail import config
from vitrail.cli import main
from vitrail.errors import ConfigError, Preempted
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.objectives.distill import load_teacher
from vitrail.objectives.objective import Task
from vitrail.training import loop
from vitrail.training.run import Run

pytestmark = pytest.mark.flow

ORDERED = dataclasses.replace(TINY.hardware, deterministic=True, micro_batch=16)
OWN = re.compile("running_|num_batches_tracked")
"""Statistics of batch norms: each rank's own."""


@pytest.mark.parametrize("name", ["distill", "probe"])
def test_with_labels_too_it_stops_and_resumes_to_the_same_bits(name: str, tmp_path: Path) -> None:
    run = runs(tmp_path)[name]
    loop.train(run, out=tmp_path / "whole", quiet=True)
    with stopped_at(2), pytest.raises(Preempted):
        loop.train(run, out=tmp_path / "halved", quiet=True)
    loop.train(None, out=tmp_path / "halved", resume=True, quiet=True)
    ours, theirs = tensors(tmp_path / "whole"), tensors(tmp_path / "halved")
    assert ours.keys() == theirs.keys() and [key for key in ours if not torch.equal(ours[key], theirs[key])] == []


@pytest.mark.filterwarnings("ignore:Grad strides do not match")  # of torch, on two ranks
def test_two_ranks_learn_what_one_learns(tmp_path: Path, sweep: int) -> None:
    """Where it is asked for, to the same bits; statistics of batch norms are each rank's own and left out. And once as DDP.

    Three objectives here, all under `make deep`.
    """
    some = {name: run for name, run in runs(tmp_path).items() if sweep > 1 or name in ("mae", "contrast", "distill")}
    for name, run in some.items():
        asked = dataclasses.replace(run, hardware=ORDERED)
        loop.train(asked, out=tmp_path / "one" / name, quiet=True)
        trained(asked, tmp_path / "two" / name, 2)
        ours, theirs = tensors(tmp_path / "one" / name), tensors(tmp_path / "two" / name)
        moved = [key for key in ours if not OWN.search(key) and not torch.equal(ours[key], theirs[key])]
        assert ours.keys() == theirs.keys() and moved == [], name
        row = log(trained(run, tmp_path / "ddp" / name, 2))[-1]
        assert np.isfinite(row["held_out_" + ("loss" if name in OBJECTIVES else "nll")])


COMPILED = """
import dataclasses, json, sys
import torch
from vitrail import config
from vitrail.batches.batch import Batch
from vitrail.models import zoo
from vitrail.training.run import Run
from vitrail.training.setup import build_model
torch.manual_seed(0)
for name, stored in json.loads(sys.argv[1]).items():
    run = config.from_dict(Run, stored)
    classes = tuple("0123456789") if run.objective.reads_labels else ()
    model = zoo.change(run.model, image=(8, 8), channels=1, classes=len(classes), drop_path=0.0)
    learner, _ = build_model(dataclasses.replace(run, model=model), classes)
    learner.train()
    batch = Batch(torch.randn(8, 1, 8, 8), torch.arange(8), ("",) * 8)
    found = []
    for forward in (learner, torch.compile(learner, backend=sys.argv[2])):
        learner.zero_grad()
        value = run.objective(forward, batch, torch.Generator().manual_seed(1)).value
        value.backward()
        found.append((value.detach(), [p.grad.clone() for p in learner.parameters() if p.grad is not None]))
    (eager, slow), (compiled, fast) = found
    torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fast, slow, rtol=1e-3, atol=1e-4)
    print(name)
"""


def compiled(asked: dict[str, Run], backend: str) -> list[str]:
    words = [sys.executable, "-c", COMPILED, json.dumps({n: config.to_dict(run) for n, run in asked.items()}), backend]
    found = subprocess.run(
        words, capture_output=True, text=True, timeout=3600, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert found.returncode == 0, found.stderr[-3000:]
    return found.stdout.split()


def test_traced_it_gives_the_same_loss_and_gradients(tmp_path: Path) -> None:
    """One objective; all of them, compiled, under `make deep`."""
    some = {name: run for name, run in runs(tmp_path).items() if name == "mae"}
    assert compiled(some, "aot_eager") == list(some)


@pytest.mark.deep
@pytest.mark.timeout(3600)  # the compiler's first time, on a busy machine
def test_compiled_it_gives_the_same_loss_and_gradients(tmp_path: Path) -> None:
    asked = runs(tmp_path)
    assert compiled(asked, "inductor") == list(asked)


def test_a_teacher_of_other_classes_or_channels_is_refused_before_training(tmp_path: Path) -> None:
    task = Task(preprocess=TINY.preprocess, classes=DIGITS)
    others = teacher(tmp_path / "letters", ("a", "b", "0"))
    with pytest.raises(ConfigError, match=r"lacks 9 of the 10 classes, such as '1'; allowed: a, b, 0; use a teacher"):
        load_teacher(str(others), task, 10)
    colour = teacher(tmp_path / "colour", preprocess=Preprocess(size=(8, 8)))
    with pytest.raises(ConfigError, match="reads 3 channels, the student 1; give both the same"):
        load_teacher(str(colour), task, 10)
    bare = teacher(tmp_path / "bare", ("a", "b"))
    with pytest.raises(ConfigError, match="has 2 classes, the data 10"):
        load_teacher(str(bare), Task(preprocess=TINY.preprocess), 10)


def test_a_teacher_of_other_preprocessing_sees_what_it_knows(tmp_path: Path) -> None:
    """Other normalisation, other order of classes: the same answers as asked by itself."""
    own = Preprocess(size=(8, 8), mean=(0.2,), std=(0.7,))
    path = teacher(tmp_path / "other", tuple(reversed(DIGITS)), own)
    found = load_teacher(str(path), Task(preprocess=TINY.preprocess, classes=DIGITS), 10)
    images = torch.randint(0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    expected = found.model(own.normalise(images)).flip(1)
    torch.testing.assert_close(found(TINY.preprocess.normalise(images)), expected, atol=1e-4, rtol=1e-4)


def digit_folder(folder: Path, count: int, labelled: bool) -> Path:
    source = open_data("digits").train
    for index in range(count):
        place = folder / str(source.labels[index]) if labelled else folder
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(source[index].content[:, :, 0]).save(place / f"{index:03d}.png")
    return folder


def test_self_training_counts_images_it_cannot_read_and_goes_on(
    in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digit_folder(Path("few"), 60, labelled=True)
    more = digit_folder(Path("more"), 40, labelled=False)
    for index in (3, 17):
        (more / f"{index:03d}.png").write_bytes(b"\x89PNG broken")
    words = [
        "study",
        "self-train",
        "few",
        "--unlabelled",
        "more",
        "--rounds",
        "1",
        "--threshold",
        "0",
        "--per-class",
        "-1",
        "--json",
    ]
    words += ["--recipe", "digits", "--length", "3 steps", "--device", "cpu", "--threads", "1"]
    assert main(words) == 0
    found = capsys.readouterr()
    assert "left out, because they cannot be read: 2 of 40 images" in found.err and "017.png" in found.err
    rows = json.loads(found.out)
    assert [row["model"] for row in rows] == ["teacher", "student-1"]
    assert rows[1]["taught by"].startswith("31 of 31 unlabelled images got a label")
    assert "copies of them are held out: 7 of 38 images" in rows[1]["taught by"]  # the same digits
    labels = (Path("runs/self-train-few/teacher/labels.npz")).read_bytes()
    assert main(words) == 0 and capsys.readouterr().out == found.out  # nothing is learnt twice
    assert (
        Path("runs/self-train-few/teacher/labels.npz").read_bytes() == labels
        and Path("runs/self-train-few/report.html").exists()
    )


def test_what_self_training_cannot_use(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "self-train", "digits"]) == 78
    assert "no images without labels were named; name a folder as --unlabelled" in capsys.readouterr().err
    broken = Path("broken")
    broken.mkdir()
    (broken / "a.png").write_bytes(b"\x89PNG broken")
    assert main(["study", "self-train", "digits", "--unlabelled", "broken"]) == 65
    assert "none of the 1 images of images can be read" in capsys.readouterr().err
    assert main(["study", "self-train", "digits", "--labels", "0.1", "--threshold", "1.5"]) == 78
    assert "0 ≤ threshold < 1" in capsys.readouterr().err
    assert (
        main(["study", "noisy"]) == 78
        and "allowed: grid, ablation, data-size, compute, transfer, search, pretraining, few-labels"
        in capsys.readouterr().err
    )
