"""Faults of data that only a whole run shows: pictures on their side at every door, a disk that vanishes under a training."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import vitrail
from tests.support.photographs import photograph
from tests.support.runs import TINY
from vitrail.batches.loader import eval_batches, train_batches
from vitrail.checkpoints import read as checkpoints
from vitrail.errors import StorageError
from vitrail.images.files import Files
from vitrail.images.folders import read_classes
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import open_images
from vitrail.images.transforms import Augment
from vitrail.prediction.engine import TorchEngine
from vitrail.training import loop
from vitrail.training.setup import Setup

pytestmark = pytest.mark.fault

SMALL = Preprocess(size=(24, 40))
SIDEWAYS = {  # EXIF orientation to what a camera held so has stored
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def test_all_eight_orientations_are_one_tensor_in_training_evaluation_and_prediction(tmp_path: Path) -> None:
    upright = photograph(0, (60, 40))
    (tmp_path / "a").mkdir()
    for orientation, turn in SIDEWAYS.items():
        stored = upright if turn is None else upright.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored.save(tmp_path / "a" / f"{orientation}.png", exif=exif)
    wanted = SMALL.resize_image(np.array(upright))
    source = read_classes(tmp_path)
    (learnt,) = train_batches(source, preprocess=SMALL, augment=Augment(), seed=0, batch_size=8, start=0, stop=8)
    (scored,) = eval_batches(source, preprocess=SMALL, batch_size=8)
    model = vitrail.build("vit-ti/16", classes=2, depth=1, patch=(8, 8), image=SMALL.size)
    predictor = TorchEngine(model, SMALL, (), torch.device("cpu"), torch.float32)
    images = open_images([tmp_path])
    asked = torch.stack([predictor.preprocess.read(images[k]) for k in range(8)])
    for tensors in (learnt.images, scored.images, asked):
        assert all(torch.equal(image, wanted) for image in tensors)


@pytest.mark.parametrize("at", [30, 70, 130])
def test_a_disk_that_vanishes_stops_the_run_at_a_whole_checkpoint(tmp_path: Path, monkeypatch, at: int) -> None:
    """With the disk back, the run goes on to the bits of one that was never disturbed."""
    disk = tmp_path / "disk"
    for name, level in (("dark", 60), ("light", 190)):
        (disk / name).mkdir(parents=True)
        for index in range(40):
            pixels = np.random.default_rng(index).normal(level, 30, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(disk / name / f"{index:02d}.png")
    run = dataclasses.replace(
        TINY, data=str(disk), preprocess=Preprocess(size=(8, 8)), batch_size=16, length="9 steps",
        evaluate_every="100 %", save_every="1 steps",
    )  # fmt: skip
    whole = loop.train(run, out=tmp_path / "whole", quiet=True).folder
    read, reads = Files.read, []

    def vanishing(self: Files, index: int) -> bytes:
        reads.append(index)
        if len(reads) == at:
            disk.rename(tmp_path / "gone")
        return read(self, index)

    def begun(setup: Setup) -> None:  # the split, which reads files too, is made
        monkeypatch.setattr(Files, "read", vanishing)

    with pytest.raises(StorageError, match="is gone; mount it again, then resume"):
        loop.train(run, out=tmp_path / "run", quiet=True, announce=begun)
    monkeypatch.setattr(Files, "read", read)
    (tmp_path / "gone").rename(disk)
    newest = checkpoints.newest(tmp_path / "run/checkpoints", say=print)
    assert newest is not None and newest.step == (at - 1) // 16
    again = loop.train(None, out=tmp_path / "run", resume=True, quiet=True).folder
    one, two = ((folder / "last/model.safetensors").read_bytes() for folder in (whole, again))
    assert one == two
