"""Claim: at one save a minute, saving costs under 1 % of training time: ViT-B/16 at 224 with AdamW, on a CPU.

    python bench/checkpoint.py [--batch 4] [--saves 3] [--rounds 2] [--json]

One process takes training steps as `vitrail train` does and saves meanwhile, once as the loop does (tensors copied at
the step, written by a thread) and once waiting for the disk. A save's cost is what training lost: the stall at the step, and
what the steps during the writing took longer than the median step. Each step's time counts the whole state: weights and
AdamW's two averages, 1.0 GB. Without a number of its own: the disk, so the rate of the file written is reported beside it.

Measured (2 cores of an AMD EPYC, torch 2.15, 1.03 GB a checkpoint, `--saves 5 --rounds 2`, alone, 2026-11-21), with a
sha256 and then with a crc32 for large files:
  behind the training: stall 0.08 and 0.10 s, steps lost 0.77 and 0.61 s, on disk after 2.2 and 2.3 s: 1.42 and 1.17 %, so not yet.
  waiting: 1.3 and 1.4 s, 2.2 and 2.4 %. A step took 1.37 and 1.57 s: the machine itself was slower the second time.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

CLAIM, MINUTE = 0.01, 60.0


def stepper(batch: int) -> tuple[Callable[[], float], object, object]:
    """(a step that gives its seconds, the setup, the state)."""
    from vitrail.cli import settle_threads

    settle_threads()
    from vitrail.images.preprocess import Preprocess
    from vitrail.models.zoo import config
    from vitrail.processes.signals import StopSignals
    from vitrail.training.loop import learn
    from vitrail.training.nan_guard import FiniteGuard
    from vitrail.training.run import Run
    from vitrail.training.setup import prepare

    preprocess = Preprocess(size=(224, 224), mean=(0.5,) * 3, std=(0.5,) * 3)
    run = Run(data="digits", model=config("vit-b/16"), preprocess=preprocess, batch_size=batch, length="100000 steps")
    setup = prepare(run)
    state, guard, stop, batches = setup.state(), FiniteGuard(setup.device, None), StopSignals(), setup.batches(0)

    def step() -> float:
        began = time.perf_counter()
        learn(setup, state, next(batches), guard, stop)
        return time.perf_counter() - began

    return step, setup, state


def waiting(step, state, saver, typical: float) -> tuple[float, float, float]:
    """(stall, what steps lost, seconds until it is on the disk) of a save that training waits for."""
    began = time.perf_counter()
    saver.save(state.step, state.tensors(), {}, lambda: None)
    saver.wait()
    stall = time.perf_counter() - began
    step()
    return stall, 0.0, stall


def behind(step, state, saver, typical: float) -> tuple[float, float, float]:
    """The same of a save behind the training."""
    began = time.perf_counter()
    saver.save(state.step, state.tensors(), {}, lambda: None)
    stall, lost = time.perf_counter() - began, 0.0
    while saver._thread.is_alive():
        lost += step() - typical
    return stall, lost, time.perf_counter() - began


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8, help="steps without a save, in each round")
    parser.add_argument("--saves", type=int, default=3, help="of each kind, in each round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, help="a folder on the disk to measure; the system's temporary one")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    step, setup, state = stepper(asked.batch)
    from vitrail import machine
    from vitrail.checkpoints.background import Saver

    kinds = {"waiting": waiting, "behind": behind}
    costs: dict[str, list[tuple[float, float, float]]] = {name: [] for name in kinds}
    plain: list[float] = []
    folder = Path(tempfile.mkdtemp(dir=asked.out))
    try:
        with Saver(folder, setup.world, setup.device) as saver:
            step(), step()
            waiting(step, state, saver, 0.0)  # the first takes memory for the copies
            for _ in range(asked.rounds):
                plain += [step() for _ in range(asked.steps)]
                for name, kind in kinds.items():
                    costs[name] += [kind(step, state, saver, statistics.median(plain)) for _ in range(asked.saves)]
        size = sum(path.stat().st_size for path in next(folder.glob("step-*")).iterdir())
    finally:
        shutil.rmtree(folder)
    found = {"seconds_per_step": statistics.median(plain), "slowest_plain_step": max(plain), "gigabytes": size / 1e9}
    for name, rows in costs.items():
        stall, lost, whole = (statistics.median(column) for column in zip(*rows, strict=True))
        cost = statistics.median(row[0] + row[1] for row in rows)
        found[name] = {
            "stall_s": stall, "steps_lost_s": lost, "on_disk_after_s": whole, "share_at_one_a_minute": cost / MINUTE,
            "cost_of_each_s": [row[0] + row[1] for row in rows],
        }  # fmt: skip
    found["machine"] = machine.describe(setup.device)
    held = found["behind"]["share_at_one_a_minute"] < CLAIM
    if asked.json:
        print(json.dumps({**found, "holds": held}, indent=1))
    else:
        print(f"{found['seconds_per_step']:.2f} s a step, {found['gigabytes']:.2f} GB a checkpoint")
        for name in kinds:
            row = found[name]
            print(
                f"{name:<8} stall {row['stall_s']:.2f} s, steps lost {row['steps_lost_s']:.2f} s, on disk after "
                f"{row['on_disk_after_s']:.2f} s: {row['share_at_one_a_minute']:.2%} at one save a minute"
            )
        print(f"under {CLAIM:.0%}: {'holds' if held else 'does not hold'}")
    return 0 if held else 1


if __name__ == "__main__":
    raise SystemExit(main())
