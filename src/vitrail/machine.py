"""This machine: its cores, memory, measured peak speed, and a description for the readers of a result.

Linux, macOS and Windows differ here and in `processes.signals` only.
"""

import contextlib
import ctypes
import functools
import math
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


def cores() -> int:
    """CPUs this process may use: its affinity, and what SLURM gave the task."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(there, max(1, int(given))) if given.isdigit() else there


def keep_freed_memory() -> bool:
    """Tells the C library to keep freed memory for the next step; whether it listened (glibc does).

    Else every activation above its threshold is returned to the kernel and comes back zeroed page by page: 67,000 page
    faults a step for 192×6 at batch 128, 8 % of the time in float32. The process then never shrinks.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS and Windows have none
        return False
    m_trim_threshold, m_mmap_threshold = -1, -3  # malloc.h
    return bool(mallopt(m_mmap_threshold, 2**30) and mallopt(m_trim_threshold, -1))


@dataclass(frozen=True)
class Memory:
    """Bytes of the memory a device computes in."""

    total: int
    available: int


def memory(device: torch.device = torch.device("cpu")) -> Memory:  # noqa: B008
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return Memory(total, free)
    if not hasattr(os, "sysconf"):
        return _windows_memory()
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else pages
    return Memory(page * pages, min(_meminfo("MemAvailable", page * free), _group_memory()))


def _meminfo(name: str, otherwise: int) -> int:
    """A row of Linux's /proc/meminfo in bytes. Free pages alone leave out what the kernel would give back."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/meminfo", encoding="ascii") as lines:
        return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), otherwise)
    return otherwise


def _group_memory(folder: Path = Path("/sys/fs/cgroup")) -> int:
    """The bytes that a container's limit leaves (cgroup v2); its file cache can be given back."""
    with contextlib.suppress(OSError, ValueError):
        limit, used = (int((folder / f"memory.{name}").read_text()) for name in ("max", "current"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat.get("inactive_file", 0)))
    return sys.maxsize


def _windows_memory() -> Memory:
    """From GlobalMemoryStatusEx: a structure of 64 bytes, which begins with its size; total and free are at bytes 8 and 16.

    Where the system does not tell, no memory is refused.
    """
    status = (ctypes.c_uint64 * 8)(64)
    with contextlib.suppress(AttributeError, OSError):
        ctypes.windll.kernel32.GlobalMemoryStatusEx(status)  # pyrefly: ignore[missing-attribute]
    return Memory(int(status[1]), int(status[2]) or sys.maxsize)


_model_threads = 0


def model_threads() -> int:
    """Number of threads for a model: torch's, or what was torch's before `leave_threads_to_model`."""
    return _model_threads or torch.get_num_threads()


def leave_threads_to_model() -> None:
    """Leaves one thread to the caller and to the threads that start later. The model's own thread sets `model_threads`.

    GNU's OpenMP has a team for each thread that computes. If the teams have more members than there are cores, they sleep
    between two products: 670 times in a pass of ViT-S/16, which then takes 57 ms instead of 39.
    """
    global _model_threads
    _model_threads = model_threads()
    torch.set_num_threads(1)


@contextlib.contextmanager
def threads_for_model() -> Iterator[None]:
    """Inside, `leave_threads_to_model`; afterwards the caller has its number of threads again."""
    global _model_threads
    leave_threads_to_model()
    try:
        yield
    finally:
        torch.set_num_threads(model_threads())
        _model_threads = 0


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held so far: on a GPU what torch allocated, on a CPU the resident
    set. 0 where the system does not tell (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status")
    if status.exists():  # `ru_maxrss` of Linux counts the program that started this one, until exec
        return 1024 * int(status.read_text().partition("VmHWM:")[2].split()[0])
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def synchronise(device: torch.device) -> None:
    """Waits until the device has done what it was given; on a CPU it always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_flops(device: torch.device, dtype: torch.dtype, seconds: float = 0.2) -> float:
    """The most FLOP/s of a large matrix product with the threads now set, 2 a multiply-add; measured once a process."""
    return _peak_flops(device, dtype, torch.get_num_threads(), seconds)


@functools.cache
def _peak_flops(device: torch.device, dtype: torch.dtype, threads: int, seconds: float) -> float:
    size = 1024 if device.type == "cpu" else 8192
    left, right = torch.ones(size, size, device=device, dtype=dtype), torch.ones(size, size, device=device, dtype=dtype)
    out = torch.empty_like(left)

    def product() -> None:
        torch.mm(left, right, out=out)
        synchronise(device)

    product()
    fastest, began = math.inf, time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        product()
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def describe(device: torch.device | None = None) -> dict[str, Any]:
    """Facts for the readers of a result: processor, threads, memory, versions."""
    facts: dict[str, Any] = {
        "cpu": _cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory().total / 2**30, 1),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }
    if device is not None and device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:  # only Linux has it
        for line in lines:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
