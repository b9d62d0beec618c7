"""A reader that might be deceived works in a child process that can do nothing but compute and answer.

The file is opened here and handed over; the child may then open, send, start and remove nothing more (by resource limits,
and by a seccomp filter where the processor's system calls are known), has a few times the file's memory, and a time to think.
Its answer is a safetensors file in memory, and is trusted no more than one from the network: its header is checked alike.
"""

import contextlib
import ctypes
import io
import json
import os
import platform
import resource
import signal
import struct
import sys
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vitrail.errors import WeightsError
from vitrail.weights.files.safe import Content, read_safetensors, to_bytes

SECONDS, ROOM = 60, 1 << 30
"""Of the processor, and of memory, beside what the file's size asks for: 5 MB a second, and six times its bytes."""
WAITS = 10
"""Times that long by the clock: the machine may be busy."""

_ARCHITECTURES = {
    # by the kernel's name: execve execveat fork vfork clone clone3 socket connect open creat openat openat2 rename renameat
    # renameat2 unlink unlinkat link linkat symlink symlinkat mkdir mkdirat rmdir chmod fchmodat chown ptrace kill tgkill
    "x86_64": (0xC000003E, (59, 322, 57, 58, 56, 435, 41, 42, 2, 85, 257, 437, 82, 264, 316, 87, 263, 86, 265, 88, 266,
                            83, 258, 84, 90, 268, 92, 101, 62, 234)),
    "aarch64": (0xC00000B7, (221, 281, 220, 435, 198, 203, 56, 437, 38, 276, 35, 37, 36, 34, 53, 54, 117, 129, 131)),
}  # fmt: skip
"""What the child is refused: the number by which the kernel knows the architecture, and the system calls."""


def confined(read: Callable[[Path, Any], Content], path: Path) -> Content:
    """`read(path, file)` in a confined child; elsewhere than on Linux in this process. Raises its WeightsErrors."""
    try:
        file = open(path, "rb")  # noqa: SIM115  # closed below
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})", next_step="check the path") from None
    with file:
        if not sys.platform.startswith("linux"):
            return read(path, file)
        answer, errors = os.memfd_create("vitrail"), os.memfd_create("vitrail")
        try:
            size = os.fstat(file.fileno()).st_size
            status = _ended(_child(read, path, file, answer, errors, size), WAITS * (SECONDS + size / 5e6))
            return _answer(path, answer, errors, status)
        finally:
            os.close(answer)
            os.close(errors)


def _child(read: Callable[[Path, Any], Content], path: Path, file: Any, answer: int, errors: int, size: int) -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside threads: the child starts none
        pid = os.fork()
    if pid:
        return pid
    try:
        os._exit(_work(read, path, file, answer, errors, size))
    finally:  # whatever happens, the child never goes on as its parent
        os._exit(70)


def _work(read: Callable[[Path, Any], Content], path: Path, file: Any, answer: int, errors: int, size: int) -> int:
    """What the child does; its exit code."""
    try:
        torch.set_num_threads(1)  # the threads of the parent did not come along
        _close_all_but(file.fileno(), answer, errors)
        _import_readers()
        _confine(size)
        content = read(path, file)
        names = list(content.tensors)
        facts = {"names": names, "wrapped": content.wrapped, "left": content.left}
        _write(errors, json.dumps(facts).encode())
        _write(answer, to_bytes({str(number): content.tensors[name] for number, name in enumerate(names)}))
        return 0
    except WeightsError as error:
        _write(errors, json.dumps({"found": error.found, "next_step": error.next_step}).encode())
        return WeightsError.exit_code
    except BaseException as error:
        os.ftruncate(errors, 0)
        os.lseek(errors, 0, os.SEEK_SET)
        _write(errors, json.dumps({"died": f"{type(error).__name__}: {error}"[:200]}).encode())
        return 70


def _import_readers() -> None:
    """What readers and writers import on first use could not be opened later: a tensor through each of their formats."""
    tensors = {"": torch.zeros(1, dtype=torch.bfloat16)}
    to_bytes(tensors)
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save(tensors, file, _use_new_zipfile_serialization=zipped)
        if zipped:
            zipfile.ZipFile(file).close()  # its names' encoding is a module, too
        file.seek(0)
        torch.load(file, map_location="cpu", weights_only=True)


def _write(handle: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(handle, view) :]


def _close_all_but(*kept: int) -> None:
    """What the parent has open is none of the child's: run folders, sockets, the terminal."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for handle in map(int, os.listdir("/proc/self/fd")):
        if handle <= 2:
            os.dup2(nowhere, handle)
        elif handle not in kept:
            with contextlib.suppress(OSError):  # one was the list's own
                os.close(handle)


def _confine(size: int) -> None:
    """Takes from this process what a reader of tensors does not need."""
    pages = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    filtered = _filter()
    limits = {
        resource.RLIMIT_AS: pages + 6 * size + ROOM,
        resource.RLIMIT_CPU: int(SECONDS + size / 5e6),
        resource.RLIMIT_FSIZE: 2 * size + (1 << 20),
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 0,  # what is open stays so
    }
    for limit, amount in limits.items():
        hard = resource.getrlimit(limit)[1]
        amount = amount if hard == resource.RLIM_INFINITY else min(amount, hard)
        resource.setrlimit(limit, (amount, amount))
    filtered()


def _filter() -> Callable[[], None]:
    """What installs the seccomp filter: a refused call fails as if it were not permitted. Nothing on unknown processors."""
    if platform.machine() not in _ARCHITECTURES:
        return lambda: None
    architecture, refused = _ARCHITECTURES[platform.machine()]
    libc = ctypes.CDLL(None, use_errno=True)
    load, jump, give = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    code = [(load, 0, 0, 4), (jump, 1, 0, architecture), (give, 0, 0, 0x80000000), (load, 0, 0, 0)]  # another: killed
    code += [(jump, len(refused) - at, 0, number) for at, number in enumerate(refused)]
    code += [(give, 0, 0, 0x7FFF0000), (give, 0, 0, 0x00050001)]  # allowed; refused with EPERM
    program = b"".join(struct.pack("HBBI", *one) for one in code)
    buffer = ctypes.create_string_buffer(program)
    described = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(buffer)))

    def install() -> None:
        # PR_SET_NO_NEW_PRIVS, then PR_SET_SECCOMP with SECCOMP_MODE_FILTER; a kernel without either leaves the limits
        word = ctypes.c_ulong
        libc.prctl(38, word(1), word(0), word(0), word(0))
        libc.prctl(22, word(2), word(ctypes.addressof(described)), word(0), word(0))
        assert buffer  # alive until here

    return install


def _ended(pid: int, seconds: float) -> int:
    """How the child ended, as `waitstatus_to_exitcode` has it; it is killed when its time is over."""
    deadline = time.monotonic() + seconds
    try:
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
    except BaseException:  # Ctrl-C: the child does not outlive us
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _answer(path: Path, answer: int, errors: int, status: int) -> Content:
    said = os.pread(errors, os.fstat(errors).st_size, 0)
    try:
        facts = json.loads(said) if said else {}
    except ValueError:
        facts = {}
    if status == WeightsError.exit_code and "found" in facts:
        raise WeightsError(str(facts["found"]), next_step=str(facts["next_step"]))
    if status != 0:
        how = facts.get("died") or (signal.Signals(-status).name if status < 0 else f"exit {status}")
        raise WeightsError(
            f"{path} made its reader fail ({how}); it ran with limited memory and time, and could do no harm",
            next_step="ask for a .safetensors file",
        )
    tensors = read_safetensors(Path(f"/proc/self/fd/{answer}"))
    names = [str(name) for name in facts["names"]]
    return Content(
        {name: tensors[str(number)] for number, name in enumerate(names)}, bool(facts["wrapped"]), tuple(facts["left"])
    )
