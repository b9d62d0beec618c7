"""A folder's index is cheap: 100,000 files in 3 s and 100 MiB, shown here on 3,000 (`bench/loader.py` has the whole)."""

import time
import tracemalloc
from pathlib import Path

import pytest

from vitrail.errors import DataError
from vitrail.images.folders import read_classes
from vitrail.images.sources import open_data

FILES = 3_000
SECONDS, BYTES = 3 / 100_000, 100 * 2**20 / 100_000  # a file


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        folder = root / f"class{number % 20:03d}"
        folder.mkdir(exist_ok=True)
        (folder / f"image{number:07d}.jpg").write_bytes(number.to_bytes(4, "big"))  # all of one size, none equal
    return root


def test_listing_costs_microseconds_a_file(many: Path) -> None:
    took = []
    for _ in range(3):
        began = time.thread_time()  # of the CPU: the machine may be busy
        source = read_classes(many)
        took.append(time.thread_time() - began)
    assert len(source) == FILES and min(took) < SECONDS * FILES


def test_listing_and_splitting_stay_within_a_kilobyte_a_file(many: Path) -> None:
    read_classes(many)  # what is imported and cached the first time
    tracemalloc.start()
    splits = open_data(many)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(splits.train) + len(splits.test) == FILES
    assert peak < BYTES * FILES


def test_a_set_of_nothing_but_copies_is_explained(tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / f"class{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"the very same")
    with pytest.raises(DataError, match=r"every image of .* held out is a copy, byte for byte, of a training image"):
        open_data(tmp_path)
