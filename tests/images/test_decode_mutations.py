"""Thousands of mutated pictures: each gives a picture or a DecodeError. No crash, no hang, no leak."""

import json
import subprocess
import sys
from pathlib import Path


def test_mutated_pictures_give_a_picture_or_a_typed_error(sweep: int) -> None:
    count = 1000 * sweep
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.mutations", str(count)],
        cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=550 * sweep, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["picture"] + found["error"] == count
    assert found["picture"] > count / 20 and found["error"] > count / 20  # both kinds were tried
    assert found["slowest"] < 60  # none hangs
    assert found["kib_per_1000"] < 1024  # the median of nine stretches: a leak grows in all of them
