"""Calls that Windows and macOS lack are not needed to import, to load, to predict, to evaluate, to train in one process."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.flow

MISSING = {
    "win32": """
for name in ("SIGUSR1", "SIGHUP", "pthread_sigmask"):
    delattr(signal, name)
for name in ("O_NOFOLLOW", "O_DIRECTORY", "fork", "sysconf", "sched_getaffinity", "memfd_create"):
    delattr(os, name)
blocked = {"fcntl", "resource", "pwd", "grp", "termios"}
""",
    "darwin": """
for name in ("sched_getaffinity", "memfd_create", "O_DIRECT"):
    delattr(os, name)
blocked = set()
""",
}
BEGIN = """
import ctypes, importlib.abc, os, signal, sys
import torch, torchvision, numpy, PIL.Image, matplotlib, tyro, pydantic, safetensors, einops, jaxtyping, rich, huggingface_hub
import torch._dynamo, torch.optim.adamw, torch.utils.data  # what others need of the system is not our subject
import filelock, jinja2, multiprocessing.spawn, multiprocessing.resource_tracker, concurrent.futures.thread, subprocess
"""
BLOCK = """
ctypes.CDLL = lambda *_: (_ for _ in ()).throw(OSError("no C library"))
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in blocked:
            raise ImportError(f"{name} is missing on this system")
sys.meta_path.insert(0, Blocked())
for name in blocked:
    sys.modules.pop(name, None)
"""
USE = """
import vitrail
from vitrail.cli import main
from vitrail.batches.loader import eval_batches
assert main(["--help"]) == 0
options = ["--length", "2 steps", "--batch-size", "16", "--hardware.workers", "0", "--hardware.threads", "1",
           "--hardware.precision", "fp32"]
small = ["--model.width", "16", "--model.depth", "1", "--model.heads", "2", "--model.mlp-width", "16"]
assert main(["--debug", "train", "digits", "--out", "run", "--quiet", *options, *small]) == 0
assert main(["run", "verify", "run"]) == 0
model = vitrail.load("run")
numpy.save("image.npy", numpy.zeros((8, 8, 1), numpy.uint8))
(answer,) = vitrail.predict(model, "image.npy", quiet=True)
assert len(answer.labels) == 5
assert main(["evaluate", "run", "digits", "--device", "cpu"]) == 0
assert main(["weights", "show", "run"]) == 0
print("all worked")
"""


@pytest.mark.parametrize("system", MISSING)
@pytest.mark.timeout(600)
def test_it_works_without_what_the_system_lacks(system: str, tmp_path: Path) -> None:
    script = BEGIN + MISSING[system] + BLOCK + USE
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=590)
    assert done.returncode == 0 and "all worked" in done.stdout, done.stderr[-3000:]
