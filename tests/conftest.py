"""What every test stands on: one thread, repeatable randomness, no unpickling, and the way to the golden data."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: the machine is shared, and one thread repeats bit for bit

import pickle
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs a GPU says so where there is none."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device")
        for item in items:
            if "cuda" in item.keywords:
                item.add_marker(skip)


@pytest.fixture(autouse=True)
def _same_seeds() -> None:
    """Vitrail never draws from these; a test that does still repeats."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _nothing_unpickles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pickle opened by our own code is a bug (multiprocessing, torch and the test tools may)."""
    opened = pickle.load

    def guarded(*args, **kwargs):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        assert not caller.startswith("vitrail"), f"{caller} unpickles a file"
        return opened(*args, **kwargs)

    monkeypatch.setattr(pickle, "load", guarded)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with golden data and references: `$VITRAIL_SHARED`, else `../shared` beside the checkout."""
    folder = Path(os.environ.get("VITRAIL_SHARED") or Path(__file__).parents[2] / "shared")
    if not folder.is_dir():
        pytest.fail(
            f"{folder} is missing: put the golden data there, or say where it is with VITRAIL_SHARED=/path/to/shared"
        )
    return folder


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """Numbers made by running the published implementations; its README says how."""
    return shared / "golden"


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, where a command may write `runs/`."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture(scope="session")
def sweep() -> int:
    """How many times the usual number of cases a sweep tries: 1, or 10 under `make deep` (VITRAIL_DEEP=1)."""
    return 10 if os.environ.get("VITRAIL_DEEP") else 1
