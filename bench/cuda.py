"""All that only a GPU can show, in one run of at most eight minutes: the CUDA tests, the benches, a real training; one table.

    python bench/cuda.py [--out runs/cuda] [--minutes 8] [--only tests b16 …]

Each row is a command of its own with a share of the time; one that fails or runs late leaves a row that says so, and the rest
go on. `table.md` in the folder has all rows; each command's output stands beside it.

Claims on an H100 or H200: share of the measured peak (MFU) of B/16 and L/16 at least 0.6, our defaults at least 1.2 times
timm compiled, Fashion-MNIST at least 95 % in ten minutes. Not yet run on a GPU.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A row of the table: a command, its largest share of the time, and what to read out of its output."""

    command: list[str]
    share: float
    read: Callable[[str], str]


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "no output"


def speeds(text: str) -> str:
    """Ratios and shares of the peak out of a bench's JSON."""
    found = json.loads(text[text.index("{\n") :])
    ratios = [f"{row['ours']} / {row['peer']}: {row['ratio']:.2f} (claim {row['claim']})" for row in found["ratios"]]
    return "; ".join(ratios + [f"MFU of {name}: {share:.2f}" for name, share in found.get("mfu", {}).items()])


def accuracy(text: str) -> str:
    found = re.findall(r"\d+\.\d+ ?%[^\n]*", text)
    return found[-1].strip() if found else last_line(text)


def parts(out: Path) -> dict[str, Part]:
    python = [sys.executable]
    step = [*python, "bench/train_step.py", "--rounds", "2", "--seconds", "3", "--json", "--size"]
    training = [*python, "-m", "vitrail", "train", "fashion-mnist", "--recipe", "fashion_mnist_gpu"]
    return {
        "tests": Part([*python, "-m", "pytest", "-m", "cuda", "-q"], 0.2, last_line),
        "b16": Part([*step, "b16"], 0.2, speeds),
        "l16": Part([*step, "l16"], 0.2, speeds),
        "predict": Part([*python, "bench/predict.py", "--rounds", "2", "--json"], 0.1, speeds),
        "fashion": Part([*training, "--out", str(out / "fashion"), "--quiet"], 0.3, accuracy),
    }


def run_part(name: str, part: Part, out: Path, seconds: float) -> str:
    """Runs a command, keeps its output, and gives what it found in a sentence."""
    try:
        done = subprocess.run(part.command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired as late:
        (out / f"{name}.txt").write_bytes(late.stdout or b"")
        return f"not finished after {seconds:.0f} s"
    (out / f"{name}.txt").write_text(done.stdout + done.stderr)
    try:
        return part.read(done.stdout)
    except (ValueError, KeyError):
        return f"exit {done.returncode}: {last_line(done.stderr)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/cuda"))
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--only", nargs="+", default=[], choices=list(parts(Path())))
    asked = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        print("no CUDA device: nothing was measured", file=sys.stderr)
        return 0
    asked.out.mkdir(parents=True, exist_ok=True)
    rows = [f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {time.strftime('%Y-%m-%d')}", ""]
    rows += ["| part | command | result | seconds |", "|---|---|---|---|"]
    chosen = {name: part for name, part in parts(asked.out).items() if not asked.only or name in asked.only}
    for name, part in chosen.items():
        began = time.perf_counter()
        found = run_part(name, part, asked.out, 60 * asked.minutes * part.share)
        rows.append(f"| {name} | `{' '.join(part.command[1:])}` | {found} | {time.perf_counter() - began:.0f} |")
        print(rows[-1], flush=True)
        (asked.out / "table.md").write_text("\n".join(rows) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
