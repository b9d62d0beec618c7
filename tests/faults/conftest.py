"""What trials share: a folder in memory, and the run that nobody touched."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.trials import in_child, train_to_the_end


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: what a kill leaves does not depend on the disk, and a sync costs nothing."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def whole(memory: Path) -> tuple[Path, float]:
    """The run nobody touched, and how long it takes; once in this process first, so that its children start warm."""
    train_to_the_end(memory / "warm")()
    folder = memory / "whole"
    began = time.monotonic()
    pid = in_child(train_to_the_end(folder))
    assert os.waitpid(pid, 0)[1] == 0
    return folder, time.monotonic() - began
