"""Shards in parallel: one global order from any number of workers and ranks, each with handles of its own."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.photographs import jpeg_folder
from vitrail.batches.loader import Batch, train_batches
from vitrail.errors import DecodeError
from vitrail.images import shards
from vitrail.images.folders import read_classes
from vitrail.images.preprocess import Preprocess
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data
from vitrail.images.transforms import Augment

STOP = 150  # into the third epoch


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return read_classes(jpeg_folder(tmp_path_factory.mktemp("photos"), 70))


@pytest.fixture(scope="module")
def packed(folder: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same images, a few in each of many tar files."""
    splits = Splits(folder, folder.subset([0]), "all to learn from")
    return shards.pack(splits, tmp_path_factory.mktemp("packed") / "set", shard_bytes=8_000)


def stream(source: Source, *, world: int = 1, workers: int = 0) -> Batch:
    """The global stream: what all ranks get, batch by batch in the order of ranks."""
    ranks = [
        train_batches(
            source, preprocess=Preprocess(size=(16, 16)), augment=Augment(crop_area=(0.3, 1), flip=True), seed=5,
            batch_size=20, start=0, stop=STOP, rank=rank, world=world, workers=workers,
        )
        for rank in range(world)
    ]  # fmt: skip
    parts = [part for batch in zip(*ranks, strict=True) for part in batch]
    return Batch(
        torch.cat([part.images for part in parts]),
        torch.cat([part.targets for part in parts]),
        tuple(key for part in parts for key in part.keys),
    )


@pytest.fixture(scope="module")
def expected(folder: Source) -> Batch:
    return stream(folder)


@pytest.mark.parametrize("world", [1, 2, 4])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_one_global_order_from_any_number_of_workers_and_ranks(
    packed: Path, expected: Batch, workers: int, world: int
) -> None:
    assert len(list(packed.glob("*.tar"))) > 5
    found = stream(open_data(packed).train, world=world, workers=workers)
    assert found.keys == expected.keys
    assert torch.equal(found.targets, expected.targets) and torch.equal(found.images, expected.images)


def test_no_more_than_so_many_shards_are_open_at_once(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set of a thousand shards would need more handles than a process has."""
    monkeypatch.setattr(shards, "_HANDLES", 3)
    source = open_data(packed).train
    before = len(os.listdir("/proc/self/fd"))
    for index in np.random.default_rng(0).integers(0, len(source), 200).tolist():
        source.expect(np.array([index, (index + 30) % len(source)]))
        assert isinstance(source[index].content, bytes)  # its checksum held
        assert len(os.listdir("/proc/self/fd")) <= before + 3
    del source
    assert len(os.listdir("/proc/self/fd")) <= before


def test_reading_ahead_leaves_a_lost_shard_to_be_named_when_it_is_read(folder: Source, tmp_path: Path) -> None:
    root = shards.pack(Splits(folder, folder.subset([0]), "all"), tmp_path / "set", shard_bytes=8_000)
    source = open_data(root).train
    (root / "shard-00001.tar").unlink()
    source.expect(np.arange(len(source)))
    failed = []
    for index in range(len(source)):
        try:
            assert source[index].content == folder[index].content
        except DecodeError as error:
            failed.append(str(error))
    assert failed and all("shard-00001.tar" in text and "No such file" in text for text in failed)
