"""Fixtures of all tests: one thread, repeatable randomness, no unpickling, and the way to the golden data."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported: the machine is shared, and one thread repeats bit for bit

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import shapes, unpickling

torch.set_num_threads(1)
torch.zeros(1, requires_grad=True).backward()  # Autograd counts devices at its first pass. A pretended GPU would start
# threads then, and no child could be forked.

_LOG = Path(tempfile.mkdtemp(prefix="vitrail-tests-")) / "unpickled.jsonl"
_COUNTS: dict[str, dict[str, int]] = {}
unpickling.watch(_LOG)
shapes.watch()


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sweeps are deep tests when they are to be long ones; what needs a GPU says so where there is none."""
    for item in items:
        if os.environ.get("VITRAIL_DEEP") and "sweep" in getattr(item, "fixturenames", ()):
            item.add_marker("deep")
            item.add_marker(pytest.mark.timeout(7200), append=False)
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
def _no_reports(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The report takes ten times as long as a tiny training: only tests marked `report` draw it."""
    if request.node.get_closest_marker("report") is None:
        monkeypatch.setattr("vitrail.training.outcome.write_report", lambda *nothing: None)


@pytest.fixture(autouse=True)
def _nothing_unpickles() -> Iterator[None]:
    """A name looked up by an unpickler with Vitrail on the stack is a bug, here and in child processes."""
    before, size = len(unpickling.found), _LOG.stat().st_size if _LOG.exists() else 0
    yield
    since = [*unpickling.found[before:], *unpickling.reported(_LOG, size)]
    ours = [what for whose, what in since if whose == "vitrail"]
    assert not ours, f"unpickled by Vitrail: {ours}"


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A worker of pytest-xdist sends its counts home; they are shown at the end."""
    counts = Counter(whose for whose, _ in [*unpickling.found, *unpickling.reported(_LOG)])
    shutil.rmtree(_LOG.parent, ignore_errors=True)
    getattr(session.config, "workeroutput", _COUNTS)["unpickled"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
    _COUNTS["workers"] = dict(Counter(_COUNTS.get("workers", {})) + Counter(node.workeroutput["unpickled"]))


def pytest_terminal_summary(terminalreporter) -> None:
    """ "unpickled: 0 by Vitrail": promised in docs/guides/long-runs.md."""
    counts = Counter(_COUNTS.get("unpickled", {})) + Counter(_COUNTS.get("workers", {}))
    rest = ", ".join(f"{counts[kind]:,} {text}" for kind, text in unpickling.SHOWN.items())
    terminalreporter.write_line(f"names looked up by unpicklers: {counts['vitrail']} by Vitrail; {rest}")


@pytest.fixture(scope="session")
def golden():
    """`golden / case / variant` is a folder of numbers made by a published implementation; see tests/golden/README.md."""
    from tests.support.golden import Golden

    return Golden()


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory, where a command may write `runs/`."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.fixture(scope="session")
def sweep() -> int:
    """How many times the usual number of cases a sweep tries: 1, or 10 under `make deep` (VITRAIL_DEEP=1)."""
    return 10 if os.environ.get("VITRAIL_DEEP") else 1


@pytest.fixture(scope="session")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: the disk then plays no part, and a sync costs nothing."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def whole_run(memory: Path) -> tuple[Path, float]:
    """A run without a fault, and its seconds. This process trains once before, so that its children start warm."""
    from tests.support.trials import in_child, train_to_the_end

    train_to_the_end(memory / "warm")()
    folder = memory / "whole"
    began = time.monotonic()
    pid = in_child(train_to_the_end(folder))
    assert os.waitpid(pid, 0)[1] == 0
    return folder, time.monotonic() - began
