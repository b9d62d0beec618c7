"""The child that reads pickled weights can compute and answer, and nothing else."""

import faulthandler
import os
import platform
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from vitrail.errors import WeightsError
from vitrail.weights.files import confined
from vitrail.weights.files.confined import _ARCHITECTURES
from vitrail.weights.files.safe import Content, open_pth, read_pth

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits are Linux's"),
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    torch.save({"w": torch.arange(6.0)}, tmp_path / "x.pth")
    return tmp_path / "x.pth"


def attempts(canary: Path) -> dict[str, object]:
    """What a deceived reader might be made to do."""

    def loop() -> None:
        while True:
            pass

    return {
        "write a file": lambda: canary.write_text("x"),
        "open a file": lambda: open("/etc/passwd").read(),
        "overwrite": lambda: os.open(canary, os.O_CREAT | os.O_WRONLY),
        "run a program": lambda: subprocess.run(["touch", str(canary)], check=True),
        "become a program": lambda: os.execv("/bin/touch", ["touch", str(canary)]),
        "talk": lambda: socket.socket().connect(("127.0.0.1", 9)),
        "take memory": lambda: torch.ones(1 << 33),
        "import": lambda: __import__("tabnanny"),
        "never end": loop,
        "die": lambda: os._exit(3),
        "crash": lambda: (faulthandler.disable(), os.abort()),
    } | (
        {
            "fork": lambda: os._exit(0) if os.fork() == 0 else None,
            "remove": lambda: os.unlink(canary.parent / "x.pth"),
            "rename": lambda: os.rename(canary.parent / "x.pth", canary),
            "link": lambda: os.symlink("/etc/passwd", canary),
            "make a folder": lambda: os.mkdir(canary),
            "kill": lambda: os.kill(os.getppid(), signal.SIGTERM),
        }
        if platform.machine() in _ARCHITECTURES
        else {}
    )


@pytest.mark.parametrize("name", attempts(Path("x")))
def test_whatever_the_reader_is_made_to_do_fails(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = file.parent / "canary"
    attempt = attempts(canary)[name]

    def deceived(path: Path, handle) -> Content:
        attempt()
        return Content({})

    monkeypatch.setattr(confined, "SECONDS", 2)
    monkeypatch.setattr(confined, "ROOM", 1 << 28)
    began = time.monotonic()
    with pytest.raises(WeightsError, match=r"made its reader fail .* could do no harm"):
        confined.confined(deceived, file)
    assert time.monotonic() - began < 30
    assert not canary.exists() and not canary.is_symlink() and file.exists()


def test_what_the_parent_has_open_is_closed(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with open(file.with_name("journal"), "w") as journal:

        def deceived(path: Path, handle) -> Content:
            os.write(1, b"to the terminal")
            os.write(journal.fileno(), b"to a file of the parent's")
            return Content({})

        with pytest.raises(WeightsError, match="Bad file descriptor"):
            confined.confined(deceived, file)
    assert capfd.readouterr().out == "" and file.with_name("journal").read_text() == ""


def test_the_tensors_come_through_as_they_are(tmp_path: Path) -> None:
    tensors = {
        "plain": torch.randn(3, 4),
        "module/with slash": torch.ones(2, dtype=torch.bfloat16),
        "number": torch.tensor(3),
        "flag": torch.tensor([True, False]),
        "half": torch.randn(5).half(),
        "empty": torch.zeros(0, 3),
    }
    torch.save({"model": tensors, "epoch": 1}, tmp_path / "x.pth")
    there = read_pth(tmp_path / "x.pth")
    with open(tmp_path / "x.pth", "rb") as file:
        here = open_pth(tmp_path / "x.pth", file)
    assert list(there.tensors) == list(tensors) and (there.wrapped, there.left) == (True, ("epoch",))
    for name, tensor in tensors.items():
        assert torch.equal(there.tensors[name], tensor) and torch.equal(here.tensors[name], tensor)
        assert there.tensors[name].dtype == tensor.dtype
    there.tensors["plain"].add_(1)  # memory of its own


def test_a_reader_s_own_words_come_through(file: Path) -> None:
    file.write_bytes(b"nothing of torch's")
    with pytest.raises(WeightsError, match=r"it is not what torch.save writes; fetch or copy the file anew"):
        read_pth(file)
    with pytest.raises(WeightsError, match=r"cannot be read \(No such file"):
        read_pth(file.with_name("missing.pth"))


def test_no_child_and_no_handle_is_left(file: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read_pth(file)
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_process_that_has_read_nothing_yet_reads_pickled_weights(tmp_path: Path) -> None:
    """What torch imports on first use cannot be opened in the child: a reader that has read before does not show it."""
    weights = {name: torch.full((3,), 2.0) for name in ("a", "b")}
    torch.save(weights, tmp_path / "zip.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    code = "import sys; from pathlib import Path; from vitrail.weights.files.safe import read_pth\n"
    code += "print(*(sorted(read_pth(Path(path)).tensors) for path in sys.argv[1:]))"
    for name in ("zip.pth", "old.pth"):
        ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True)
        assert ran.stdout.strip() == "['a', 'b']", ran.stderr
