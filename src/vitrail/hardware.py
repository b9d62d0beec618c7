"""What this machine is and what it does best: device, precision, threads, memory, and its peak by measurement.

What `auto` means is decided here and nowhere else; docs/concepts/speed.md holds the measurements behind each choice.
"""

import contextlib
import ctypes
import functools
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F

from vitrail.config import COUNT, Range, check_ranges
from vitrail.errors import ConfigError, suggest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how it computes. Nothing here changes what is learnt, but for rounding."""

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int = 0
    """CPU threads; 0 measures which number is fastest."""
    workers: int = -1
    """Loader processes; -1 chooses."""
    micro_batch: int | None = None
    """Images through the model at once; the gradient is accumulated over batch_size / micro_batch of them."""
    parallel: Literal["auto", "ddp", "fsdp"] = "auto"
    """Over several processes: each holds all weights (`ddp`, what `auto` takes), or a shard of weights, gradients and
    optimiser state (`fsdp`, for models that do not fit otherwise)."""
    checkpoint_activations: bool = False
    """Recompute activations in the backward pass: about a third more time for much less memory."""
    deterministic: bool = False
    """Over several processes: add gradients in one fixed order, so that 1, 2 or 4 of them give the same bits (slower;
    needs `micro_batch`)."""

    def __post_init__(self) -> None:
        loaders: Range = (lambda number: number >= -1, "-1, which chooses, or a number of loader processes")
        threads: Range = (lambda number: number >= 0, "0, which measures, or a number of CPU threads")
        check_ranges(self, threads=threads, workers=loaders, micro_batch=COUNT)


def resolve(hardware: Hardware, *, processes: int = 1, work: Callable[[], object] | None = None) -> Hardware:
    """The same settings with every "auto" made a value and the process set so: what a run writes and a resume repeats.

    Several processes on this machine share its cores. `work` is what threads are measured with, as in `threads`.
    """
    alone = processes == 1 or hardware.threads > 0
    where = device(hardware.device)
    dtype = precision(hardware.precision, where)
    if where.type == "cpu":
        keep_freed_memory()
    return replace(
        hardware,
        device=str(where),
        precision="bf16" if dtype == torch.bfloat16 else "fp32",
        compile="on" if compiling(hardware.compile, where) == "on" else "off",
        threads=threads(hardware.threads if alone else max(1, cores() // processes), work=work),
    )


def device(name: str = "auto") -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there. Raises ConfigError for a device that is not."""
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    try:
        found = torch.device(name)
        torch.empty(1, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {name!r} cannot be used here ({reason})",
            allowed="'auto', 'cpu', 'cuda', 'cuda:1' … 'mps'",
            next_step="leave it at 'auto' to take what is there",
        ) from None
    return found


def precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products; weights, gradients and sums stay float32.

    `auto` is bf16 where the hardware multiplies it faster: CUDA since Ampere, CPUs with AVX512-BF16 or AMX.
    """
    if name == "auto":
        return torch.bfloat16 if _has_bf16(device) else torch.float32
    if name not in PRECISIONS:
        raise ConfigError(
            f"precision {name!r} is unknown", allowed="auto, fp32, bf16", next_step=suggest(name, PRECISIONS)
        )
    return PRECISIONS[name]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def compiling(name: str, device: torch.device) -> str:
    """`on` or `off`; `auto` is on for CUDA. On a CPU the compiler's minute is seldom earned back."""
    if name not in ("auto", "on", "off"):
        raise ConfigError(f"compile {name!r} is unknown", allowed="auto, on, off")
    return name if name != "auto" else ("on" if device.type == "cuda" else "off")


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in `dtype`; float32 needs no casting and gets none."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


# --- threads ---------------------------------------------------------------------------------------------------------


def cores() -> int:
    """CPUs this process may run on, not the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(count: int = 0, *, work: Callable[[], object] | None = None) -> int:
    """Sets torch's CPU threads and says how many. 0 takes the fastest number for `work`, by a short measurement."""
    if count < 0:
        raise ConfigError(f"threads = {count}", allowed="0 (measure) or a number of CPU threads")
    torch.set_num_threads(count or _fastest_threads(work or layer(544, 96)))
    return torch.get_num_threads()


def _fastest_threads(work: Callable[[], object]) -> int:
    """The smallest count within 5 % of the fastest: a core that brings nothing is left to others.

    Counts take turns, and all their time counts, not their best moment: what a busy neighbour costs is part of the
    answer. A count that loses a turn by a factor of two is out, for on a full machine its turns can last seconds.
    """
    available = cores()
    candidates = sorted({*(2**power for power in range(available.bit_length())), available})
    seconds = dict.fromkeys(candidates, 0.0)
    for _ in range(_ROUNDS):
        for candidate in seconds:
            torch.set_num_threads(candidate)
            seconds[candidate] += _seconds_each(work)
        seconds = {candidate: total for candidate, total in seconds.items() if total <= 2 * min(seconds.values())}
    return next(candidate for candidate, total in seconds.items() if total <= 1.05 * min(seconds.values()))


_ROUNDS, _TURN = 5, 0.02  # turns of 20 ms: about 0.4 s on two quiet cores


def _seconds_each(work: Callable[[], object]) -> float:
    work()  # the first call after a change of threads makes them
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < _TURN:
        work()
        calls += 1
    return (time.perf_counter() - began) / calls


def layer(tokens: int, width: int) -> Callable[[], object]:
    """A training step of one MLP of a ViT, of so many tokens or as many as take about 20 ms. It draws no random number.

    Two threads bring nothing to 544 tokens of width 96, and 1.8 times the speed to 6,272 of width 192.
    """
    a_token = 48 * width**2  # operations: two matrices of 4·width², forward and twice that backward
    tokens = max(16, min(tokens, int(2e9 / a_token)))
    entering = torch.ones(1, tokens, width)
    up, down = (torch.full(size, 0.01, requires_grad=True) for size in ((4 * width, width), (width, 4 * width)))
    return lambda: F.linear(F.gelu(F.linear(F.layer_norm(entering, (width,)), up)), down).sum().backward()


# --- peak and memory -------------------------------------------------------------------------------------------------


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
    page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
    free = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else pages
    return Memory(page * pages, page * free)


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held so far: on the GPU what torch allocated, on the CPU the resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
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
    """What a reader of a result needs to know of the machine: processor, threads, memory, versions."""
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
