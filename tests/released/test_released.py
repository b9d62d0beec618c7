"""Every version that was released: its checkpoints, runs and weights load, answer and go on as they did. See make.py."""

import json
import shutil
from pathlib import Path

import pytest

from tests.released.make import HERE, logits
from tests.support.runs import log
from vitrail.checkpoints import read as checkpoints
from vitrail.cli import main

RELEASED = [folder.name for folder in sorted(HERE.iterdir()) if (folder / "logits.json").is_file()]
KINDS = ["whole", "shards"]


def test_there_are_some_and_they_are_small() -> None:
    sizes = {
        path: path.stat().st_size for version in RELEASED for path in (HERE / version).rglob("*") if path.is_file()
    }
    assert sizes and sum(sizes.values()) < 200_000 * len(RELEASED)


@pytest.mark.parametrize("version", RELEASED)
@pytest.mark.parametrize("kind", [*KINDS, "bundle"])
def test_its_weights_answer_as_they_did(version: str, kind: str, tmp_path: Path) -> None:
    path = HERE / version / kind
    if kind in KINDS:
        assert main(["run", "export", str(path), "--out", str(tmp_path / "out")]) == 0
        path = tmp_path / "out"
    wanted = json.loads((HERE / version / "logits.json").read_text())[kind]
    for found, row in zip(logits(path), wanted, strict=True):
        assert found == pytest.approx(row, abs=1e-5)


@pytest.mark.parametrize("version", RELEASED)
@pytest.mark.parametrize("kind", KINDS)
def test_its_run_goes_on_as_it_did(version: str, kind: str, tmp_path: Path) -> None:
    """From step 6 to 12, by one process, on the curve that version wrote down; the ledger to the digit."""
    folder = shutil.copytree(HERE / version / kind, tmp_path / "run")
    assert checkpoints.newest(folder / "checkpoints", say=pytest.fail).step == 6
    before = log(folder)
    assert main(["train", "--resume", str(folder), "--quiet", "--hardware.parallel", "auto"]) == 0
    after = log(folder)
    assert after[-1]["step"] == 12
    for name, tolerance in {"step": 0, "ledger": None, "lr": 1e-9, "loss": 1e-4, "held_out_nll": 1e-4}.items():
        was, now = ([row[name] for row in rows if name in row] for rows in (before, after))
        assert was and now == (was if tolerance is None else pytest.approx(was, rel=tolerance)), name
