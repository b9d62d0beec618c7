"""Seeded mutators for every format: half a second each, and a minute each under `make deep`. Counts are printed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.fuzz import BLOAT

pytest.importorskip("pyarrow")


@pytest.mark.skipif(os.name == "nt", reason="signals of Unix tell a hang")
def test_damaged_files_are_read_or_refused_in_words(sweep: int) -> None:
    seconds = 0.5 if sweep == 1 else 60
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fuzz", str(seconds)],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=2000, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    peak = found.pop("peak")
    assert not sum(counts.get("failed", 0) for counts in found.values()), done.stderr[-4000:]
    assert all(counts.get("refused", 0) + counts.get("read", 0) for counts in found.values())
    assert peak < BLOAT + (1 << 30)  # torch itself takes some
