"""Two programs measured fairly on a machine that others use: in turns, each in a process of its own, compared turn by turn.

A process of its own, since what ours sets (thread waiting, kept memory) would help the peer too. A contender is a
function that gives a step; `python bench/X.py --contender NAME` measures it alone and prints one line of JSON.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Measured:
    """One turn of one contender."""

    images_per_s: float
    others: float
    """CPUs that other processes kept busy meanwhile; a quiet machine has less than 0.1."""
    threads: int
    extra: Mapping[str, float]


def measure(
    step: Callable[[], object], images: int, seconds: float, *, one_thread: bool = False, **extra: float
) -> None:
    """Runs `step` for so long, after two that warm up, and prints the median as JSON.

    `one_thread`: one thread and this process's CPU time, which others on the machine disturb little.
    """
    import torch

    clock = time.process_time if one_thread else time.perf_counter
    if one_thread:
        torch.set_num_threads(1)
    for _ in range(2):
        step()
    times: list[float] = []
    busy, own, began = _busy_seconds(), time.process_time(), time.perf_counter()
    while len(times) < 3 or time.perf_counter() - began < seconds:
        start = clock()
        step()
        times.append(clock() - start)
    wall = time.perf_counter() - began
    others = (_busy_seconds() - busy - (time.process_time() - own)) / wall
    rate = images / statistics.median(times)
    extra["peak_gib"] = _peak_gib()
    print(json.dumps(dict(images_per_s=rate, others=others, threads=torch.get_num_threads(), extra=extra)))


def _peak_gib() -> float:
    """Largest resident memory of this process. `ru_maxrss` would count the parent's, which exec hands on."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0.0
    return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 2**20


def _busy_seconds() -> float:
    """Of all CPUs since boot; 0 where the system does not say."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    user, nice, system, _idle, _wait, irq, soft, *_ = map(int, stat.read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def take_turns(
    script: str, contenders: Sequence[str], rounds: int, options: Sequence[str]
) -> dict[str, list[Measured]]:
    """`rounds` times every contender, one after the other."""
    turns: dict[str, list[Measured]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name in contenders:
            command = [sys.executable, script, "--contender", name, *options]
            lines = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip().splitlines()
            turns[name].append(Measured(**json.loads(lines[-1])))
            print(f"  {name:24} {turns[name][-1].images_per_s:10.1f} images/s", file=sys.stderr, flush=True)
    return turns


def ratio(turns: Mapping[str, Sequence[Measured]], ours: str, peer: str) -> float:
    """The median over the rounds of Vitrail / peer."""
    pairs = zip(turns[ours], turns[peer], strict=True)
    return statistics.median(our.images_per_s / their.images_per_s for our, their in pairs)


def report(
    turns: Mapping[str, Sequence[Measured]], claims: Sequence[tuple[str, str, float]], *, as_json: bool, **facts: object
) -> int:
    """Prints rates and ratios; the exit code is 1 where a claim (ours, peer, least ratio) does not hold."""
    rates = {name: statistics.median(turn.images_per_s for turn in rows) for name, rows in turns.items()}
    others = statistics.median(turn.others for rows in turns.values() for turn in rows)
    extras = {name: dict(rows[-1].extra) for name, rows in turns.items() if rows[-1].extra}
    ratios = [dict(ours=a, peer=b, ratio=ratio(turns, a, b), claim=least) for a, b, least in claims]
    if as_json:
        print(json.dumps(dict(images_per_s=rates, ratios=ratios, others_busy=others, extra=extras, **facts), indent=2))
    else:
        for name, rate in rates.items():
            more = "  ".join(f"{key} {value:.4g}" for key, value in extras.get(name, {}).items())
            print(f"{name:24} {rate:10.1f} images/s  {turns[name][-1].threads} threads  {more}")
        for row in ratios:
            verdict = "holds" if row["ratio"] >= row["claim"] else "DOES NOT HOLD"
            print(f"{row['ours']} / {row['peer']}: {row['ratio']:.2f}×, claim {row['claim']:.2f}×: {verdict}")
        if others > 0.1:
            print(f"other processes kept {others:.1f} CPUs busy: trust the ratios more than the rates")
    return int(any(row["ratio"] < row["claim"] for row in ratios))
