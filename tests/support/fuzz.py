"""Damaged files of every format but pictures (`mutations` has those), opened as a command would.

`python -m tests.support.fuzz 2` gives each format two seconds and prints counts as JSON.
A process of its own: a crash, a hang or a bloat shows as what it is.
"""

import contextlib
import json
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.support.mutations import mutated
from vitrail import config
from vitrail.errors import VitrailError
from vitrail.images.idx import open_idx
from vitrail.images.preprocess import Preprocess
from vitrail.images.shards import pack
from vitrail.images.sources import open_data
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.training.run import Run, read_run
from vitrail.weights import bundle
from vitrail.weights.files.readers import read_any
from vitrail.weights.record import Record

HANG, BLOAT = 5, 1 << 30
"""Seconds and bytes that no damaged file may cost."""
TINY = ViTConfig(width=16, depth=1, heads=1, mlp_width=16, patch=(8, 8), image=(16, 16), classes=2)
Reader = Callable[[Path], Any]


def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)


def look_at(data: Path) -> None:
    """Opens data as every command does, and reads all of it."""
    splits = open_data(str(data), holdout=0.25)
    for source in (splits.train, splits.test):
        for index in range(len(source)):
            with contextlib.suppress(VitrailError):
                source.pixels(index)


def make_bundle(root: Path) -> None:
    record = Record(config=TINY, preprocess=Preprocess(size=(16, 16)), classes=("a", "b"))
    bundle.save_bundle(root, zoo.build(TINY), record)


def make_folder(root: Path) -> None:
    """Class folders of .npy images, and a list of them."""
    lines = ["path,label"]
    for number, image in enumerate(pictures()):
        path = root / "ab"[number % 2] / f"{number}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, image)
        lines.append(f"{path.parent.name}/{path.name},{path.parent.name}")
    (root / "list.csv").write_text("\n".join(lines))


def make_packed(root: Path) -> None:
    (root / "made").mkdir()
    make_folder(root / "made")
    pack(open_data(str(root / "made"), holdout=0.25), root / "packed")
    for path in (root / "packed").iterdir():
        path.rename(root / path.name)
    shutil.rmtree(root / "made")


def make_idx(root: Path) -> None:
    images, labels = pictures()[..., 0], np.arange(8, dtype=np.uint8) % 2
    head = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes()
    (root / "train-images-idx3-ubyte").write_bytes(head + images.tobytes())
    (root / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + np.array([8], ">u4").tobytes() + labels.tobytes())


def make_parquet(root: Path) -> None:
    import io

    import pyarrow as pa
    import pyarrow.parquet

    rows = []
    for image in pictures():
        Image.fromarray(image).save(kept := io.BytesIO(), "PNG")
        rows.append({"bytes": kept.getvalue()})
    table = pa.table({"image": rows, "label": [number % 2 for number in range(8)]})
    about = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    pa.parquet.write_table(table.replace_schema_metadata({"huggingface": json.dumps(about)}), root / "x.parquet")


FORMATS: dict[str, tuple[Callable[[Path], Any], str, Reader]] = {
    "npy": (make_folder, "a/*.npy", lambda root: look_at(root)),
    "csv": (make_folder, "list.csv", lambda root: look_at(root / "list.csv")),
    "tar index": (make_packed, "index.*", look_at),
    "tar": (make_packed, "*.tar", look_at),
    "idx": (make_idx, "train-*", lambda root: open_idx(root, holdout=0.25, seed=0)),
    "parquet": (make_parquet, "x.parquet", lambda root: look_at(root / "x.parquet")),
    "npz": (
        lambda root: np.savez(root / "x.npz", a=np.ones((3, 4), np.float32), b=np.ones(2)),
        "x.npz", lambda root: read_any(root / "x.npz"),
    ),
    "safetensors": (make_bundle, "model.safetensors", lambda root: read_any(root / "model.safetensors")),
    "record.json": (make_bundle, "record.json", bundle.load),
    "run.json": (
        lambda root: (root / "run.json").write_text(config.sealed_json(Run())),
        "run.json", lambda root: read_run(root / "run.json"),
    ),
    "unsealed run.json": (
        lambda root: (root / "run.json").write_text(json.dumps(config.to_dict(Run()))),
        "run.json", lambda root: read_run(root / "run.json"),
    ),
}  # fmt: skip


def attack(name: str, seconds: float, seed: int) -> dict[str, float]:
    """How many damaged files were read, refused in words, or failed: each failure is printed with its seed."""
    make, pattern, read = FORMATS[name]
    random, found, slowest = np.random.default_rng(seed), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make(root)
        targets = [(path, path.read_bytes()) for path in sorted(root.glob(pattern))]
        read(root)
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            path, content = targets[random.integers(len(targets))]
            path.write_bytes(mutated(content, targets[0][1], random))
            began = time.process_time()
            signal.alarm(HANG)
            try:
                read(root)
                found["read"] += 1
            except VitrailError:
                found["refused"] += 1
            except BaseException as error:  # whatever else it is, it is a failure
                found["failed"] += 1
                print(
                    f"{name}, seed {seed}, {sum(found.values())}: {type(error).__name__}: {error}"[:300],
                    file=sys.stderr,
                )
            finally:
                signal.alarm(0)
                path.write_bytes(content)
            slowest = max(slowest, time.process_time() - began)
    return {**found, "slowest": slowest}


def hang(*_: object) -> None:
    raise TimeoutError(f"no answer in {HANG} s")


def main(seconds: float, seed: int) -> None:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, hang)
    found: dict[str, Any] = {name: attack(name, seconds, seed) for name in FORMATS}
    print(json.dumps({**found, "peak": peak()}))


def peak() -> int:
    """The most memory that this program had, in bytes. `ru_maxrss` would count the process that started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
