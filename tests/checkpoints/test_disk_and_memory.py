"""A disk that is full or says no, at every call and at every size; memory that runs out: a typed error, and the last
checkpoint goes on to the same bits."""

import dataclasses
import os
import random
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import forked, traced, write
from tests.support.runs import TINY, assert_same_run
from tests.support.trials import ended, in_child, train_to_the_end
from vitrail.checkpoints import read as checkpoints
from vitrail.checkpoints.write import list_steps
from vitrail.cli import explain
from vitrail.errors import MemoryRanOut, StorageError, translate_errors
from vitrail.training import loop
from vitrail.training.run_folder import RunFolder

pytestmark = pytest.mark.fault


def commit_refused_at(folder: Path, call: str, count: int, why: str) -> int:
    """Commits step 2 in a child whose `count`-th `call` fails; 74 where that was a StorageError, 0 where it got through."""

    def work() -> None:
        try:
            write(folder, 2, keep=1)
        except StorageError as error:
            os._exit(error.exit_code)

    pid, go = forked(work)
    inject = f"inject={call}:error={why}:when={count}"
    tracer = subprocess.Popen(["strace", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, "-p", str(pid)])
    while not traced(pid):
        assert tracer.poll() is None, "strace could not attach"
        time.sleep(0.001)
    os.write(go, b"!")
    os.close(go)
    code = ended(pid)
    tracer.wait()
    return code


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (a Debian package)")
@pytest.mark.parametrize("why", ["ENOSPC", "EROFS", "EDQUOT", "EIO"])
def test_a_disk_that_says_no_at_each_call_of_a_commit(tmp_path: Path, why: str, sweep: int) -> None:
    """The commit fails as a StorageError or gets through; one whole checkpoint is there, and the next commit works."""
    points = 0
    for call in ("write", "fsync", "mkdir", "rename", "openat") if sweep > 1 or why == "ENOSPC" else ("write",):
        for count in range(1, 100):
            folder = tmp_path / f"{call}-{count}"
            write(folder, 1)
            code = commit_refused_at(folder, call, count, why)
            snapshot = checkpoints.newest(folder, say=pytest.fail)
            assert snapshot is not None and snapshot.step in (1, 2) and code in (0, 74)
            write(folder, 3)
            assert checkpoints.newest(folder, say=pytest.fail).step == 3
            if code == 0 and snapshot.step == 2:
                break
            points += 1
        else:
            pytest.fail(f"{call} failed a hundred times")
    print(f"{points} calls refused with {why}, a whole checkpoint after each")


def limited(work: Callable[[], object], what: int, amount: int) -> Callable[[], object]:
    def within() -> None:
        resource.setrlimit(what, (amount, amount))
        work()

    return within


@pytest.mark.parametrize("report", [False, pytest.param(True, marks=pytest.mark.report)])
def test_no_file_may_grow_beyond_a_limit(report: bool, whole_run, memory: Path, sweep: int) -> None:
    """As a disk that fills up in the middle of any file: exit 74, and with room again the run ends with the same bits."""
    reference, _ = whole_run
    largest = max(path.stat().st_size for path in reference.rglob("*") if path.is_file())
    levels, stopped = [largest * level // 20 for level in range(20)], 0
    rng = random.Random(int(report))
    for limit in rng.sample(levels, 20 if sweep > 1 else 3):
        folder = memory / f"limit-{report}-{limit}"

        def reported(folder: Path = folder) -> None:  # the report too, which other trials leave out
            begun = (folder / "run.json").exists()
            loop.train(None if begun else TINY, out=folder, resume=begun, quiet=True)

        code = ended(in_child(limited(reported if report else train_to_the_end(folder), resource.RLIMIT_FSIZE, limit)))
        assert code in (0, 74), f"exit {code} where no file may have more than {limit} bytes"
        stopped += code == 74
        assert ended(in_child(train_to_the_end(folder))) == 0
        assert_same_run(reference, folder)
        shutil.rmtree(folder)
    assert stopped
    print(f"{stopped} runs stopped by a limit, all went on to the same bits")


def test_a_disk_too_small_for_two_checkpoints_is_said_before_the_first_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 300_000))
    with pytest.raises(StorageError, match=r"has 0.3 MB left for 2 more checkpoints of 0\.\d MB"):
        loop.train(TINY, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run/checkpoints").exists()
    monkeypatch.undo()
    size = loop.train(dataclasses.replace(TINY, length="1 steps"), out=tmp_path / "ok", quiet=True).setup.state().size
    held = sum(path.stat().st_size for path in next((tmp_path / "ok/checkpoints").iterdir()).glob("*.safetensors"))
    assert size == pytest.approx(held, rel=0.1)  # the estimate is what a checkpoint takes


def test_memory_that_runs_out_in_a_step_leaves_the_checkpoint(whole_run, memory: Path) -> None:
    """An address space that is too small for step 5: the error says what to do, and the run ends with the same bits."""
    reference, _ = whole_run
    folder, said = memory / "hungry", memory / "said"

    def work() -> None:
        learn = loop.learn

        def hungry(setup, state, batch, *rest):
            if state.step == 5:
                used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
                resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20), -1))
                many = torch.arange(200_000) % len(batch.images)
                batch = dataclasses.replace(batch, images=batch.images[many], targets=batch.targets[many], numbers=None)
                setup = dataclasses.replace(setup, run=dataclasses.replace(setup.run, batch_size=200_000))
            learn(setup, state, batch, *rest)

        loop.learn = hungry
        try:
            loop.train(TINY, out=folder, quiet=True)
        except MemoryRanOut as error:
            said.write_text(str(error))
            raise

    assert ended(in_child(work)) == MemoryRanOut.exit_code == 71
    assert "the memory ran out while training" in said.read_text() and "`hardware.micro_batch`" in said.read_text()
    assert list_steps(folder / "checkpoints")[-1] == 3
    assert ended(in_child(train_to_the_end(folder))) == 0
    assert_same_run(reference, folder)


@pytest.mark.parametrize(
    "error",
    [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"),
     torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), OSError(12, "Cannot allocate memory")],
)  # fmt: skip
def test_want_of_memory_is_one_error_whoever_says_it(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(MemoryRanOut, match=r"ran out while testing.*; eat less"),
        translate_errors("testing", "eat less"),
    ):
        raise error
    assert explain(error) == 71 and "try a smaller --batch" in capsys.readouterr().err


def test_other_errors_pass_as_they_are() -> None:
    for error in (RuntimeError("shape mismatch"), OSError(2, "No such file or directory"), ValueError("x")):
        with pytest.raises(type(error)) as passed, translate_errors("testing", ""):
            raise error
        assert passed.value is error


def test_a_run_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "run" / ".lock").mkdir(parents=True)
    with pytest.raises(StorageError, match="could not be written"), RunFolder.create(TINY, tmp_path / "run"):
        pass
