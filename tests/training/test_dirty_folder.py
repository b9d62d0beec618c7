"""Training on a folder with a damaged picture: left out, named once, and the ledger still adds up."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.runs import TINY
from vitrail.errors import DataError
from vitrail.images.preprocess import Preprocess
from vitrail.training import loop
from vitrail.training.verify import verify_run

pytestmark = pytest.mark.flow

RUN = dataclasses.replace(
    TINY,
    preprocess=Preprocess(size=(8, 8)),
    batch_size=16,
    length="3 epochs",
    evaluate_every="100 %",
    save_every="2 steps",
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, light and dark, 700 pictures each of 8×8."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(700):
            pixels = rng.normal(level, 30, (8, 8, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return tmp_path / "photos"


def damage(photos: Path, name: str) -> None:
    path = photos / name
    path.write_bytes(path.read_bytes()[:60])


def held_out(photos: Path) -> set[str]:
    from vitrail.images.sources import open_data

    return set(open_data(str(photos)).test.keys)


def in_training(photos: Path) -> str:
    return next(f"dark/{i:03d}.png" for i in range(700) if f"dark/{i:03d}.png" not in held_out(photos))


def test_one_damaged_picture_is_left_out_and_named_once(photos: Path, tmp_path: Path) -> None:
    bad = in_training(photos)
    damage(photos, bad)
    folder = loop.train(dataclasses.replace(RUN, data=str(photos)), out=tmp_path / "run", quiet=True).folder
    listed = [json.loads(line) for line in (folder / "bad_samples.jsonl").read_text().splitlines()]
    assert [row["key"] for row in listed] == [bad]
    found = verify_run(folder)
    assert found.wrong_at is None and found.unreadable == 1


def test_too_many_damaged_pictures_stop_the_run(photos: Path, tmp_path: Path) -> None:
    kept = held_out(photos)
    for name in [f"dark/{i:03d}.png" for i in range(40) if f"dark/{i:03d}.png" not in kept]:
        damage(photos, name)
    with pytest.raises(DataError, match="training images cannot be read"):
        loop.train(dataclasses.replace(RUN, data=str(photos)), out=tmp_path / "run", quiet=True)


def test_changed_images_are_refused_on_resuming(photos: Path, tmp_path: Path) -> None:
    run = dataclasses.replace(RUN, data=str(photos), length="4 steps")
    folder = loop.train(run, out=tmp_path / "run", quiet=True).folder
    (photos / in_training(photos)).unlink()
    with pytest.raises(DataError, match="the images changed since the checkpoint"):
        loop.train(None, out=folder, resume=True, quiet=True)
    loop.train(None, out=folder, resume=True, accept_data_change=True, quiet=True)
