"""Device, precision and threads: what a run asks for, and what `auto` means.

docs/concepts/speed.md holds the measurements behind each choice.
"""

import contextlib
import functools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F

from vitrail import machine
from vitrail.config import COUNT, Range, check_ranges
from vitrail.errors import ConfigError, suggest

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """Where and how a run computes. Nothing here changes what it learns, but for rounding."""

    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    threads: int = 0
    """CPU threads; 0 takes OMP_NUM_THREADS, else measures which number is fastest."""
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


def resolve(hardware: Hardware, *, processes: int = 1, tokens: int = 544, width: int = 96) -> Hardware:
    """The same settings with a value for every "auto"; sets the process so. A run stores the result, a resume repeats it.

    Several `processes` on this machine share its cores. `tokens` and `width` describe the work, as in `threads`.
    """
    where = device(hardware.device)
    dtype = precision(hardware.precision, where)
    if where.type == "cpu":
        machine.keep_freed_memory()
    count = hardware.threads
    if processes > 1 and not count and _told() < 2:  # torchrun sets OMP_NUM_THREADS to 1 where it is not set
        count = max(1, machine.cores() // processes)
    return replace(
        hardware,
        device=str(where),
        precision="bf16" if dtype == torch.bfloat16 else "fp32",
        compile="on" if compiling(hardware.compile, where) == "on" else "off",
        threads=threads(count, tokens=tokens, width=width),
    )


MOST_THREADS = 4096


def device(name: str = "auto") -> torch.device:
    """`auto` is the first of CUDA, MPS and CPU that is there. Raises ConfigError for a device that is not."""
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, is_there in there.items() if is_there))
    try:
        found = torch.device(name)
        torch.empty(1, device=found).cpu()  # torch's "meta" holds no numbers
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]
        reason = reason if len(reason) < 60 else "torch does not find it"  # torch's own list is a paragraph
        raise ConfigError(
            f"device {name!r} cannot be used here ({reason})",
            allowed="'auto', 'cpu', 'cuda', 'cuda:1' … 'mps'",
            next_step="leave it at 'auto' to take what is there",
        ) from None
    return found


def precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of the matrix products; weights, gradients and sums stay float32.

    `auto` is bf16 where the hardware multiplies it faster: CUDA since Ampere, and a CPU where a short measurement shows it.
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
    if device.type != "cpu":
        return False
    return (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()) and _bf16_is_faster()


@functools.cache
def _bf16_is_faster() -> bool:
    """Whether bf16 saves a fifth of a matrix product's time on one thread of this CPU. Less would not pay for the casts.

    The instructions alone do not tell. An Intel Xeon with AVX512-BF16 and without AMX takes twice as long in bf16 as in
    float32. We compare CPU time, which busy neighbours change little.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = [(_product_seconds(torch.bfloat16), _product_seconds(torch.float32)) for _ in range(_ROUNDS)]
    finally:
        torch.set_num_threads(before)
    low, full = (min(seconds) for seconds in zip(*rounds, strict=True))
    return low < 0.8 * full


def _product_seconds(dtype: torch.dtype) -> float:
    """CPU seconds of one product of two 512×512 matrices."""
    matrix = torch.ones(512, 512, dtype=dtype)
    began = time.thread_time()
    torch.mm(matrix, matrix)
    return time.thread_time() - began


def compiling(name: str, device: torch.device) -> str:
    """`on` or `off`; `auto` is on for CUDA. On a CPU the compiler's minute is seldom earned back."""
    if name not in ("auto", "on", "off"):
        raise ConfigError(f"compile {name!r} is unknown", allowed="auto, on, off")
    return name if name != "auto" else ("on" if device.type == "cuda" else "off")


def autocast(device: torch.device, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
    """Matrix products in `dtype`; float32 needs no casting and gets none."""
    return contextlib.nullcontext() if dtype == torch.float32 else torch.autocast(device.type, dtype)


def threads(count: int = 0, *, tokens: int = 544, width: int = 96) -> int:
    """Sets torch's CPU threads and returns how many. 0 takes OMP_NUM_THREADS, else measures which number is fastest.

    `tokens` and `width` describe the work; the same work is measured once in a process.
    """
    if not 0 <= count <= MOST_THREADS:
        raise ConfigError(
            f"threads = {count}", allowed=f"0 (measure) or a number of CPU threads, {MOST_THREADS:,} at most"
        )
    torch.set_num_threads(count or _told() or _fastest_threads(tokens, width))
    return torch.get_num_threads()


def _told() -> int:
    """OMP_NUM_THREADS; 0 where it is not set."""
    told = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return int(told) if told.isdigit() else 0


@functools.cache
def _fastest_threads(tokens: int, width: int) -> int:
    """The smallest count within 5 % of the fastest: a core that brings nothing is left to others.

    Counts take turns, and their whole time is compared, not their best: busy neighbours are part of the answer. A count
    that is twice as slow as the fastest is dropped: on a full machine its turns can last seconds.
    """
    work, available = layer(tokens, width), machine.cores()
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

    Measured with two threads: 544 tokens × width 96 gain nothing; 6,272 × 192 take 1.8 times less.
    """
    a_token = 48 * width**2  # operations: two matrices of 4·width², forward and twice that backward
    tokens = max(16, min(tokens, int(2e9 / a_token)))
    entering = torch.ones(1, tokens, width)
    up, down = (torch.full(size, 0.01, requires_grad=True) for size in ((4 * width, width), (width, 4 * width)))
    return lambda: F.linear(F.gelu(F.linear(F.layer_norm(entering, (width,)), up)), down).sum().backward()
