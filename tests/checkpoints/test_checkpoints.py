"""Checkpoints: whole or absent, every flipped bit seen, the one before used."""

import json
import os
import random
import shutil
import subprocess
import time
import zlib
from pathlib import Path

import pytest
import torch

from tests.support.checkpoints import GROUPS, forked, traced, write
from vitrail.checkpoints.read import newest, read
from vitrail.checkpoints.write import list_steps
from vitrail.errors import CheckpointError, StorageError

pytestmark = pytest.mark.fault


def test_round_trip_is_bit_equal(tmp_path: Path) -> None:
    write(tmp_path, 3)
    snapshot = newest(tmp_path, say=pytest.fail)
    assert snapshot is not None and snapshot.step == 3 and snapshot.facts == {"step": 3, "best": 0.5}
    for file, tensors in GROUPS.items():
        for name, tensor in tensors.items():
            assert torch.equal(snapshot.tensors[file][name], tensor)


def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "plain").touch()
    modes = {path.stat().st_mode for path in [*(tmp_path / "step-00000001").iterdir(), tmp_path / "plain"]}
    assert len(modes) == 1


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    write(tmp_path, 1, 2, 3, 4, keep=2)
    assert list_steps(tmp_path) == [3, 4]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000003", "step-00000004"]


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert newest(tmp_path / "absent", say=pytest.fail) is None


def damage(content: bytes, rng: random.Random) -> bytes:
    """One bit flipped, or the end cut off."""
    if rng.random() < 0.1:
        return content[: rng.randrange(len(content))]
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << rng.randrange(8))]) + content[place + 1 :]


def with_crc32(checkpoint: Path) -> None:
    """The manifest as 0.1.0 wrote it for files of 64 MiB and more."""
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"] = {
        name: {"size": line["size"], "crc32": f"{zlib.crc32((checkpoint / name).read_bytes()):08x}"}
        for name, line in manifest["files"].items()
    }
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("kind", ["sha256", "crc32"])
def test_every_flip_and_cut_is_seen_and_the_one_before_used(kind: str, tmp_path: Path, sweep: int) -> None:
    """300 with today's checksum and with that of 0.1.0's large files; 11,000 under `make deep`."""
    write(tmp_path, 1, 2)
    if kind == "crc32":
        with_crc32(tmp_path / "step-00000002")
    last, rng = tmp_path / "step-00000002", random.Random(0)
    whole = {path: path.read_bytes() for path in sorted(last.iterdir())}
    missed = 0
    for _ in range(11_000 if sweep > 1 else 300):
        path = rng.choice(list(whole))
        path.write_bytes(damage(whole[path], rng))
        try:
            read(last)
            missed += json.loads(whole[path]) != json.loads(path.read_bytes()) if path.name == "manifest.json" else 1
        except CheckpointError:
            pass
        path.write_bytes(whole[path])
    assert missed == 0 and kind in json.loads(whole[last / "manifest.json"])["files"]["model.safetensors"]
    (last / "model.safetensors").write_bytes(damage(whole[last / "model.safetensors"], rng))
    said: list[str] = []
    snapshot = newest(tmp_path, say=said.append)
    assert snapshot is not None and snapshot.step == 1
    assert "step-00000002 is damaged" in said[0]


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-00000001" / "state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="all 1 checkpoints"):
        newest(tmp_path, say=lambda text: None)


@pytest.mark.parametrize("name", ["manifest.json", "state.json", "model.safetensors"])
def test_a_pipe_in_a_checkpoint_is_damage_and_no_wait(name: str, tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-00000001" / name).unlink()
    os.mkfifo(tmp_path / "step-00000001" / name)
    with pytest.raises(CheckpointError, match="it is a pipe"):
        read(tmp_path / "step-00000001")


def test_a_checkpoint_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-00000001").rename(tmp_path / "elsewhere")
    (tmp_path / "step-00000001").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link"):
        read(tmp_path / "step-00000001")


def test_a_manifest_nested_too_deep_is_damage(tmp_path: Path) -> None:
    write(tmp_path, 1)
    (tmp_path / "step-00000001" / "manifest.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="does not parse"):
        read(tmp_path / "step-00000001")


def test_a_link_in_a_checkpoint_is_not_followed(tmp_path: Path) -> None:
    write(tmp_path, 1)
    inside, outside = tmp_path / "step-00000001" / "model.safetensors", tmp_path / "elsewhere"
    shutil.copy(inside, outside)
    inside.unlink()
    inside.symlink_to(outside)
    with pytest.raises(CheckpointError):
        read(tmp_path / "step-00000001")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file stands where the folder should be")
    with pytest.raises(StorageError, match="could not be written"):
        write(tmp_path / "taken" / "checkpoints", 1)


def test_full_disk_keeps_the_last_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(StorageError, match="No space left"):
        write(tmp_path, 2)
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["step-00000001"]
    assert newest(tmp_path, say=pytest.fail).step == 1


def commit_killed_at(folder: Path, call: str, count: int) -> int:
    """Commits step 2 in a child that the kernel kills at its `count`-th `call`; gives the wait status."""
    pid, go = forked(lambda: write(folder, 2, keep=1))
    inject = f"inject={call}:signal=KILL:when={count}"
    tracer = subprocess.Popen(["strace", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-e", inject, "-p", str(pid)])
    deadline = time.monotonic() + 10
    while not traced(pid):
        assert tracer.poll() is None and time.monotonic() < deadline, "strace could not attach"
        time.sleep(0.001)
    os.write(go, b"!")
    os.close(go)
    _, status = os.waitpid(pid, 0)
    tracer.wait()
    return status


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (a Debian package)")
@pytest.mark.parametrize(
    "call", ["mkdir", "openat", "write", "fsync", "close", "rename", "renameat", "unlinkat", "rmdir"]
)
def test_a_kill_at_each_system_call_of_a_commit(tmp_path: Path, call: str) -> None:
    """n = 1, 2, … until the commit gets through: what is there always loads, and is step 1 or step 2."""
    for count in range(1, 100):
        folder = tmp_path / f"{call}-{count}"
        write(folder, 1)
        status = commit_killed_at(folder, call, count)
        snapshot = newest(folder, say=pytest.fail)
        assert snapshot is not None and snapshot.step in (1, 2)
        if not os.WIFSIGNALED(status):
            assert snapshot.step == 2 and count > 1, f"no {call} seen at all"
            return
    pytest.fail(f"100 kills at {call} and the commit never got through")
