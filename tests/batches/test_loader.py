"""The same batches from any number of workers and ranks, from any position on; nothing lost, nothing replaced."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.photographs import jpeg_folder
from tests.support.streams import SMALL, joined, same, stream
from vitrail.batches import loader, workers
from vitrail.batches.loader import Batch, eval_batches, train_batches
from vitrail.errors import DataError, DecodeError, StorageError, VitrailError
from vitrail.images.folders import read_classes
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Arrays, Source
from vitrail.images.sources import open_data
from vitrail.images.transforms import Augment

CROPS = Augment(crop_area=(0.2, 1.0), flip=True, jitter=0.3, randaugment=(2, 9), erase=0.3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return jpeg_folder(tmp_path_factory.mktemp("photos"), 90)


@pytest.fixture
def photos(folder: Path) -> Source:
    return read_classes(folder)


def test_an_epoch_shows_every_image_once_with_its_own_label(photos: Source) -> None:
    epoch = stream(photos, stop=90)
    keys = [key for batch in epoch for key in batch.keys]
    assert sorted(keys) == sorted(photos.keys)
    assert [len(batch) for batch in epoch] == [20, 20, 20, 20, 10]
    for batch in epoch:
        assert [f"class{target}" for target in batch.targets.tolist()] == [key.split("/")[0] for key in batch.keys]
        assert batch.images.dtype == torch.uint8 and batch.images.shape[1:] == (3, 24, 32)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_workers_change_nothing(photos: Source, count: int) -> None:
    assert same(stream(photos), stream(photos, workers=count))


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_share_the_very_same_batches(photos: Source, world: int) -> None:
    ranks = [stream(photos, rank=rank, world=world) for rank in range(world)]
    assert same(stream(photos), [joined(list(parts)) for parts in zip(*ranks, strict=True)])


def test_schedules_over_worlds_workers_and_stops_give_one_order(photos: Source, sweep: int) -> None:
    """5 schedules, 200 under `make deep`: cut anywhere, go on with another world and worker count: nothing missing,
    nothing twice, the same order."""
    whole = [key for batch in stream(photos, stop=400, augment=Augment()) for key in batch.keys]
    random = np.random.default_rng(0)
    for _ in range(5 if sweep == 1 else 200):
        keys, at = [], 0
        while at < 400:
            stop = min(400, at + 20 * int(random.integers(2, 12)))
            world = int(random.choice([1, 2, 4]))
            count = int(random.choice([0, 0, 0, 1, 3]))
            ranks = [
                stream(photos, at, stop, rank=rank, world=world, workers=count, augment=Augment())
                for rank in range(world)
            ]
            keys += [key for parts in zip(*ranks, strict=True) for part in parts for key in part.keys]
            at = stop
        assert keys == whole


def test_entering_the_stream_anywhere_gives_the_rest_of_it(photos: Source) -> None:
    assert same(stream(photos)[4:], stream(photos, start=80))
    assert same(stream(photos)[7:], stream(photos, start=140, workers=2))


def test_images_in_memory_are_the_same_by_the_quick_way_and_by_the_slow() -> None:
    digits = open_data("digits").train
    quick = Preprocess(size=(8, 8), mean=(0.5,), std=(0.5,))
    augment = Augment(shift=0.1, scale=0.1, rotate=10, erase=0.3, flip=True)
    assert digits.in_memory is not None
    one_by_one = Source(
        digits.name, digits.classes, digits.labels, digits.keys, Single(digits.in_memory), np.arange(len(digits))
    )
    assert same(
        stream(digits, preprocess=quick, augment=augment, stop=200),
        stream(one_by_one, preprocess=quick, augment=augment, stop=200),
    )


class Single:
    """Images in memory that do not say that they are one array."""

    def __init__(self, array: np.ndarray) -> None:
        self._array = Arrays(array)

    def read(self, index: int) -> np.ndarray:
        return self._array.read(index)

    @property
    def sizes(self) -> np.ndarray:
        return self._array.sizes


def test_repeated_augmentation_shows_differently_augmented_neighbours(photos: Source) -> None:
    batches = stream(photos, stop=270, augment=Augment(crop_area=(0.2, 0.5), repeats=3))
    keys = [key for batch in batches for key in batch.keys]
    images = torch.cat([batch.images for batch in batches])
    assert Counter(keys) == dict.fromkeys(photos.keys, 3)
    assert all(keys[at] == keys[at + 1] == keys[at + 2] for at in range(0, 270, 3))
    assert sum(torch.equal(images[at], images[at + 1]) for at in range(0, 270, 3)) < 5
    assert same(batches[5:], stream(photos, start=100, stop=270, augment=Augment(crop_area=(0.2, 0.5), repeats=3)))


def test_evaluation_goes_through_every_image_in_order(photos: Source) -> None:
    plain, parallel = (list(eval_batches(photos, preprocess=SMALL, batch_size=32, workers=n)) for n in (0, 2))
    assert same(plain, parallel)
    assert [key for batch in plain for key in batch.keys] == list(photos.keys)
    assert [len(batch) for batch in plain] == [32, 32, 26]


def test_a_few_unreadable_images_are_left_out_of_training_and_named(folder: Path, tmp_path: Path, monkeypatch) -> None:
    root = jpeg_folder(tmp_path / "some", 90)
    bad = root / "class1/0007.jpg"
    bad.write_bytes(bad.read_bytes()[:300])
    monkeypatch.setattr(loader, "BAD_FILES", 1)
    for count in (0, 2):
        batches = stream(read_classes(root), stop=90, workers=count)
        assert sum(len(batch) for batch in batches) == 89
        assert "class1/0007.jpg" not in [key for batch in batches for key in batch.keys]
        (error,) = [error for batch in batches for error in batch.dropped]
        assert isinstance(error, DecodeError) and "class1/0007.jpg" in str(error)


def test_too_many_unreadable_images_stop_training(tmp_path: Path) -> None:
    root = jpeg_folder(tmp_path / "bad", 40)
    for name in ("class0/0002", "class0/0004", "class1/0001", "class1/0003"):
        (root / f"{name}.jpg").write_bytes(b"<!DOCTYPE html><html>")
    with pytest.raises(DataError, match=r"4 of 40 training images cannot be read: .*: a web page"):
        stream(read_classes(root))


@pytest.mark.parametrize("count", [0, 2])
def test_evaluation_stops_at_one_unreadable_image_and_names_it(tmp_path: Path, count: int) -> None:
    root = jpeg_folder(tmp_path / "bad", 12)
    (root / "class1/0003.jpg").unlink()
    source = read_classes(root)
    (root / "class1/0005.jpg").chmod(0)
    (root / "class0/0000.jpg").unlink()  # while it is read
    with pytest.raises(DecodeError, match=r"class0/0000\.jpg"):
        list(eval_batches(source, preprocess=SMALL, batch_size=8, workers=count))


def test_a_folder_that_vanishes_is_said(tmp_path: Path) -> None:
    root = jpeg_folder(tmp_path / "disk", 12)
    source = read_classes(root)
    root.rename(tmp_path / "gone")
    with pytest.raises(StorageError, match="is gone"):
        stream(source)


def processes() -> list:
    return [child for child in multiprocessing.active_children() if child.is_alive()]


def test_killed_workers_are_replaced_and_the_order_stays(photos: Source) -> None:
    expected = stream(photos, stop=360)
    batches = train_batches(
        photos, preprocess=SMALL, augment=CROPS, seed=3, batch_size=20, start=0, stop=360, workers=2
    )
    got = []
    for number, batch in enumerate(batches):
        got.append(batch)
        if number % 5 == 1:
            os.kill(processes()[0].pid, signal.SIGKILL)
    assert same(expected, got)
    assert processes() == []


def test_a_hung_worker_is_replaced(photos: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = stream(photos, stop=400)
    batches = train_batches(
        photos, preprocess=SMALL, augment=CROPS, seed=3, batch_size=20, start=0, stop=400, workers=1
    )
    got = [next(batches)]
    monkeypatch.setattr(workers, "PATIENCE", 5.0)
    os.kill(processes()[0].pid, signal.SIGSTOP)
    assert same(expected, [*got, *batches])


def test_workers_outlive_the_signals_of_a_group_and_end_with_the_stream(photos: Source) -> None:
    batches = train_batches(
        photos, preprocess=SMALL, augment=CROPS, seed=3, batch_size=20, start=0, stop=10_000, workers=2
    )
    next(batches)
    before = {child.pid for child in processes()}
    for pid in before:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    for _ in range(8):
        next(batches)
    assert {child.pid for child in processes()} == before
    batches.close()
    assert processes() == []


def suicidal(task: int, out) -> tuple:
    if task == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.full(4, task, np.uint8), None


def test_a_task_that_kills_every_worker_is_named() -> None:
    results = workers.in_order(suicidal, range(9), 2, name=lambda task: f"image {task}")
    with pytest.raises(DataError, match="2 loader processes in a row died on image 5"):
        for number, (array, _) in enumerate(results):
            assert array.tolist() == [number] * 4


def hanging(task: int, out) -> tuple:
    time.sleep(1000 if task == 3 else 0)
    return np.full(4, task, np.uint8), None


def test_a_task_on_which_every_worker_hangs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    results = workers.in_order(hanging, range(9), 2, name=lambda task: f"image {task}")
    got = [next(results)[0].tolist()]  # the processes are up
    monkeypatch.setattr(workers, "PATIENCE", 3.0)
    with pytest.raises(DataError, match="2 loader processes in a row gave no answer for 3 seconds on image 3"):
        for array, _ in results:
            got.append(array.tolist())
    assert got == [[0] * 4, [1] * 4, [2] * 4] and processes() == []


def failing(task: int, out) -> tuple:
    raise KeyError("a bug")


def test_a_bug_in_a_worker_comes_home_with_its_traceback() -> None:
    with pytest.raises(VitrailError, match=r"failed on 0: .*a bug") as failed:
        list(workers.in_order(failing, range(3), 1))
    assert "in failing" in failed.value.__notes__[0]


def test_a_script_needs_no_main_guard_and_no_process_is_left(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(
        textwrap.dedent(f"""
        from vitrail.batches.loader import eval_batches
        from vitrail.images.folders import read_classes
        from vitrail.images.preprocess import Preprocess
        from pathlib import Path
        source = read_classes(Path({str(folder)!r}))
        batches = eval_batches(source, preprocess=Preprocess(size=(16, 16)), batch_size=8, workers=2)
        print(sum(len(batch) for batch in batches))
        next(eval_batches(source, preprocess=Preprocess(size=(16, 16)), batch_size=8, workers=2))  # left open
        """)
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("90\n", "", 0)


@pytest.mark.cuda
def test_copies_to_a_gpu_overlap_and_arrive_whole(photos: Source) -> None:
    """Each batch is copied on another stream than the one that computes, and is never read before it is there."""
    expected = [batch.images.float().mean() for batch in stream(photos)]
    for _ in range(20):
        found = []
        for batch in stream(photos, pin=True):
            assert batch.images.is_pinned()
            moved = batch.to("cuda", non_blocking=True)
            found.append(moved.images.float().mean().cpu())
        assert torch.allclose(torch.stack(found), torch.stack(expected))


def test_batches_split_and_move() -> None:
    batch = Batch(torch.arange(10).view(10, 1, 1, 1), torch.arange(10), tuple("abcdefghij"))
    parts = batch.split(4)
    assert [part.keys for part in parts] == [tuple("abcd"), tuple("efgh"), tuple("ij")]
    assert torch.equal(torch.cat([part.targets for part in parts]), batch.targets)
    assert torch.equal(batch.to("cpu").images, batch.images)


def test_channels_that_do_not_fit_are_an_error_that_names_the_image(tmp_path: Path) -> None:
    for shade, place in enumerate(("a/1.png", "a/2.png", "b/1.png", "b/2.png")):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 40), (shade, 0, 0)).save(tmp_path / place)
    np.save(tmp_path / "b/five.npy", np.zeros((40, 40, 5), np.uint8))
    splits = open_data(tmp_path)
    part = next(part for part in (splits.train, splits.test) if "b/five.npy" in part.keys)
    with pytest.raises(DecodeError, match=r"^b/five\.npy: an image of 5 channels where 3 are wanted"):
        list(eval_batches(part, preprocess=Preprocess(size=(32, 32)), batch_size=4))
