"""A folder's index is cheap: 100 MiB for 100,000 files and few calls, shown here on 3,000 (`bench/loader.py` has the time)."""

import os
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest

from vitrail.errors import DataError
from vitrail.images.folders import read_classes
from vitrail.images.sources import open_data

FILES = 3_000
BYTES = 100 * 2**20 / 100_000  # a file


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("many")
    for number in range(FILES):
        folder = root / f"class{number % 20:03d}"
        folder.mkdir(exist_ok=True)
        (folder / f"image{number:07d}.jpg").write_bytes(number.to_bytes(4, "big"))  # all of one size, none equal
    return root


def test_listing_asks_the_system_a_few_times_a_file(many: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are counted, not seconds: no file is opened, and each is looked at twice at most."""
    counts: Counter[str] = Counter()
    for name in ("open", "stat", "lstat", "scandir"):
        really = getattr(os, name)
        monkeypatch.setattr(
            os, name, lambda *a, name=name, really=really, **k: (counts.update([name]), really(*a, **k))[1]
        )
    assert len(read_classes(many)) == FILES
    print(dict(counts))
    assert counts["open"] + counts["scandir"] < 100 and counts["stat"] + counts["lstat"] <= 2 * FILES


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
