"""Adds what this version writes to the files that every later version must read: `python -m tests.released.make`.

    0.1.0/whole/     a run of twelve steps, with its checkpoint of step 6 and the log of all twelve
    0.1.0/shards/    the same, learnt and saved by two ranks in shards
    0.1.0/bundle/    weights that `vitrail.load` reads
    0.1.0/logits.json    what each answers on four digits

Run it once for a release, from a checkout of it, and commit the folder; a folder that is there is never made again.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import torch

import vitrail
from vitrail.images.sources import open_data

HERE = Path(__file__).parent
WORDS = [
    "train", "digits", "--recipe", "digits", "--ema", "0.9", "--batch-size", "32", "--quiet",
    "--model.width", "8", "--model.depth", "1", "--model.heads", "2", "--model.mlp-width", "16",
    "--length", "12 steps", "--save-every", "6 steps", "--evaluate-every", "6 steps",
    "--hardware.device", "cpu", "--hardware.precision", "fp32", "--hardware.compile", "off",
    "--hardware.threads", "1", "--hardware.workers", "0", "--hardware.micro-batch", "16",
    "--optim.lr", "0.03", "--optim.warmup", "2 steps",
]  # fmt: skip
ALONE = [sys.executable, "-m"]
IN_SHARDS = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m"]


def run(start: list[str], *words: object) -> None:
    command = [*start, "vitrail", *map(str, words)]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def logits(path: Path) -> list[list[float]]:
    """What the model in `path` answers on the first four held-out digits."""
    model = vitrail.load(path)
    source = open_data("digits").test
    images = torch.stack([torch.from_numpy(source[at].content).permute(2, 0, 1) for at in range(4)])
    with torch.inference_mode():
        return model(model.record.preprocess.normalise(images)).tolist()


def keep(made: Path, kept: Path) -> None:
    """Of a finished run, what there was after half of it; and the log of all of it, to compare with."""
    shutil.copytree(made / "checkpoints" / "step-00000006", kept / "checkpoints" / "step-00000006")
    for name in ("run.json", "metrics.jsonl"):
        shutil.copy(made / name, kept / name)


def make(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run(ALONE, *WORDS, "--out", work / "whole")
        run(IN_SHARDS, *WORDS, "--out", work / "shards", "--hardware.parallel", "fsdp")
        answers = {}
        for kind in ("whole", "shards"):
            keep(work / kind, folder / kind)
            run(ALONE, "run", "export", folder / kind, "--out", work / "now" / kind)
            answers[kind] = logits(work / "now" / kind)
        shutil.copytree(work / "whole" / "last", folder / "bundle")
        answers["bundle"] = logits(folder / "bundle")
        (folder / "logits.json").write_text(json.dumps(answers, indent=1))


if __name__ == "__main__":
    version = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())["project"]["version"]
    if (HERE / version).exists():
        raise SystemExit(f"{HERE / version} is there already: what a version wrote does not change")
    make(HERE / version)
