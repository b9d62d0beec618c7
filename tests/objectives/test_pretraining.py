"""Every way of pre-training in the one loop, on real digits: it runs, resumes to the same bits, and its weights go on."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.objectives import ENCODER, OBJECTIVES, TINY
from tests.support.runs import no_report
from tests.support.stopping import stopped_at
from vitrail.checkpoints import read as checkpoints
from vitrail.errors import ConfigError, DataError, Preempted
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_data
from vitrail.models import zoo
from vitrail.models.mae import MAE
from vitrail.models.vit import ViT
from vitrail.objectives.classify import Classify
from vitrail.objectives.contrastive import Contrast
from vitrail.objectives.distill import Distill
from vitrail.objectives.reconstruct import Reconstruct, pictures
from vitrail.training import loop
from vitrail.training.run import Optim
from vitrail.training.setup import prepare
from vitrail.weights.bundle import load

pytestmark = pytest.mark.flow


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    snapshot = checkpoints.newest(folder / "checkpoints", say=pytest.fail)
    assert snapshot is not None
    return {f"{file}/{name}": tensor for file, group in snapshot.tensors.items() for name, tensor in group.items()}


DRAWN = ("mae", "contrast")
"""With pictures and without: these draw the reports of their runs."""
NAMES = [pytest.param(name, marks=[pytest.mark.report] if name in DRAWN else []) for name in OBJECTIVES]


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_stops_resumes_to_the_same_bits_and_its_weights_go_on(name: str, tmp_path: Path) -> None:
    run = dataclasses.replace(TINY, objective=OBJECTIVES[name])
    whole = loop.train(run, out=tmp_path / "whole", quiet=True)
    assert whole.scores.images == 359 and np.isfinite(whole.scores.headline.value)
    with no_report():
        with stopped_at(3), pytest.raises(Preempted):
            loop.train(run, out=tmp_path / "halved", quiet=True)
        loop.train(None, out=tmp_path / "halved", resume=True, quiet=True)
    ours, theirs = tensors(tmp_path / "whole"), tensors(tmp_path / "halved")
    assert ours.keys() == theirs.keys() and [key for key in ours if not torch.equal(ours[key], theirs[key])] == []

    model = load(whole.folder)
    assert isinstance(model, MAE if name == "mae" else ViT)
    assert model.pool(model.features(torch.randn(2, 1, 8, 8))).shape == (2, 32)
    assert name not in DRAWN or (whole.folder / "report.html").stat().st_size > 10_000

    tuned = dataclasses.replace(
        TINY, objective=Classify(), weights=str(whole.folder), optim=Optim(lr=1e-3, layer_decay=0.75, warmup="1 steps")
    )
    setup = prepare(tuned)
    state = model.state_dict()
    prefix = "encoder." if name == "mae" else ""
    assert all(
        torch.equal(tensor, state[prefix + key])
        for key, tensor in setup.model.state_dict().items()
        if not key.startswith("head")
    )
    with no_report():
        assert loop.train(tuned, out=tmp_path / "tuned", quiet=True).scores.images == 359


def test_mae_goes_on_from_its_own_encoder_and_decoder(tmp_path: Path) -> None:
    first = loop.train(TINY, out=tmp_path / "first", quiet=True)
    again = prepare(dataclasses.replace(TINY, weights=str(first.folder)))
    state = load(first.folder).state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.model.backbone.state_dict().items())
    assert any("the decoder too" in note for note in again.notes)


def test_a_learned_table_starts_from_the_fixed_positions(tmp_path: Path) -> None:
    """As in MAE's fine-tuning, where positions are trained: the same features before the first step."""
    first = loop.train(TINY, out=tmp_path / "first", quiet=True)
    learned = zoo.change(ENCODER, positions="learned", position_resize="bicubic")
    setup = prepare(dataclasses.replace(TINY, model=learned, objective=Classify(), weights=str(first.folder)))
    images, mae = torch.randn(2, 1, 8, 8), load(first.folder)
    ours, theirs = (model.eval().features(images).tokens for model in (setup.model, mae))
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_pictures_show_what_was_seen_and_only_paint_the_rest(tmp_path: Path) -> None:
    model = load(loop.train(TINY, out=tmp_path / "run", quiet=True).folder)
    images = torch.randint(0, 256, (3, 1, 8, 8), dtype=torch.uint8)
    seen, painted = pictures(model, images, TINY.preprocess, 0.75, torch.Generator().manual_seed(0))
    same = (seen == images).view(3, 1, 4, 2, 4, 2).all(5).all(3)  # patches as they are
    assert (same.flatten(1).sum(1) >= 4).all() and (same.flatten(1).sum(1) <= 6).all()
    kept = same.repeat_interleave(2, 2).repeat_interleave(2, 3)
    assert torch.equal(painted[kept], images[kept]) and (seen[~kept] == 128).all()


def test_distillation_brings_a_student_near_its_teacher(tmp_path: Path) -> None:
    supervised = dataclasses.replace(TINY, objective=Classify(), length="80 steps", evaluate_every="80 steps")
    teacher = loop.train(supervised, out=tmp_path / "teacher", quiet=True)
    run = dataclasses.replace(
        supervised, objective=Distill(teacher=str(teacher.folder), kind="soft", weight=1.0), seed=5
    )
    student = loop.train(run, out=tmp_path / "student", quiet=True)
    rows = [json.loads(line) for line in (student.folder / "metrics.jsonl").read_text().splitlines()]
    agreement = [row["agreement"] for row in rows if "agreement" in row]
    assert agreement[-1] > agreement[0] + 0.2
    assert student.scores.top1 > 0.2


def test_a_folder_without_classes_teaches_without_labels_and_counts_what_is_broken(tmp_path: Path) -> None:
    data = tmp_path / "pictures"
    data.mkdir()
    digits = open_data("digits").train
    for index in range(70):
        Image.fromarray(digits[index].content[:, :, 0]).save(data / f"{index:03d}.png")
    run = dataclasses.replace(TINY, data=str(data), batch_size=16, length="3 steps", evaluate_every="3 steps")
    result = loop.train(run, out=tmp_path / "run", quiet=True)
    assert result.scores.images == 14 and "no labels are read" in result.setup.notes[0]
    with pytest.raises(DataError, match="holds no class folders"):
        loop.train(dataclasses.replace(run, objective=Classify()), out=tmp_path / "labelled", quiet=True)
    for index in range(0, 70, 2):
        (data / f"{index:03d}.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(DataError, match=r"training images cannot be read: .*\.png"):
        loop.train(run, out=tmp_path / "broken", quiet=True)


def test_images_without_classes_are_not_balanced(tmp_path: Path) -> None:
    for index in range(4):
        Image.fromarray(np.full((8, 8), 50 * index, np.uint8)).save(tmp_path / f"{index}.png")
    with pytest.raises(ConfigError, match="balanced sampling of images without classes"):
        prepare(dataclasses.replace(TINY, data=str(tmp_path), batch_size=2, balance="sampling"))


def test_a_student_goes_on_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervised = dataclasses.replace(TINY, objective=Classify(), length="2 steps", save_every="1 steps")
    with no_report():
        loop.train(supervised, out=tmp_path / "teacher", quiet=True)
        monkeypatch.chdir(tmp_path)
        run = dataclasses.replace(supervised, objective=Distill(teacher="teacher"))
        with stopped_at(1), pytest.raises(Preempted):
            loop.train(run, out=tmp_path / "student", quiet=True)
        monkeypatch.chdir("/")
        assert loop.train(None, out=tmp_path / "student", resume=True, quiet=True).scores.images == 359


def test_what_does_not_fit_is_said_before_training(tmp_path: Path) -> None:
    cases = [
        (dataclasses.replace(TINY, objective=Reconstruct(mask_ratio=0.97)), "leaves none of them visible"),
        (dataclasses.replace(TINY, preprocess=Preprocess(size=(9, 8), mean=(0.5,), std=(0.5,))), "does not divide"),
        (dataclasses.replace(TINY, objective=Distill(teacher="nowhere")), "there is no teacher at nowhere"),
        (dataclasses.replace(TINY, objective=Contrast(), batch_size=1), "1 image at once in 'contrast'"),
    ]
    for run, what in cases:
        with pytest.raises(ConfigError, match=what):
            prepare(run)
    with pytest.raises(ConfigError, match="0 < mask_ratio < 1"):
        Reconstruct(mask_ratio=1.0)
