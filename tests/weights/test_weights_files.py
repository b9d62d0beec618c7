"""Files that lie: paths that lead outside, headers that claim too much, keys that do not fit, numbers that are none."""

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support import zoo as configs
from tests.support.bundles import CONFIG, RECORD, a_model
from tests.support.checkpoints import write
from vitrail.errors import VitrailError, WeightsError
from vitrail.images.samples import Splits, from_arrays
from vitrail.images.shards import pack
from vitrail.models import zoo
from vitrail.weights import bundle, fit
from vitrail.weights.files.safe import check_header

pytestmark = pytest.mark.fault

# --- C4: nothing outside is opened

READ_ALL = """
import sys
from pathlib import Path
from vitrail.errors import VitrailError
from vitrail.images.sources import open_data
from vitrail.checkpoints import read as checkpoints
from vitrail.weights import bundle
refused, wrong = 0, []
READERS = {"bundle": bundle.load, "checkpoint": checkpoints.read, "shards": lambda path: open_data(path).train[0],
           "file": bundle.load}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        kind = path.name.split("-")[0]
        READERS[kind](next(path.iterdir()) if kind == "checkpoint" else path)
        wrong.append(path.name)
    except VitrailError:
        refused += 1
print(refused, wrong)
"""

OUT = ["../../outside/secret", "/OUTSIDE/secret", "a/../../../outside/secret", "./../../outside/secret",
       "state.json/../../../outside/secret", "..", ".", "", "a\0b", "..\\..\\outside\\secret"]  # fmt: skip


def bundles(root: Path, outside: Path) -> Iterator[Path]:
    for name in ("model.safetensors", "record.json", "record.next.json"):
        for kind in ("absolute", "relative", "chain"):
            folder = root / f"bundle-{name}-{kind}"
            bundle.save_bundle(folder, a_model(), RECORD)
            moved = outside / f"{name}-{kind}"
            if name == "record.next.json":
                (folder / "record.json").rename(folder / name)
            (folder / name).rename(moved)
            link_to(folder / name, moved, kind)
            yield folder


def link_to(link: Path, target: Path, kind: str) -> None:
    if kind == "chain":
        link.with_name(f".{link.name}").symlink_to(target)
        target = link.with_name(f".{link.name}")
    link.symlink_to(os.path.relpath(target, link.parent) if kind == "relative" else target)


def saved_checkpoints(root: Path, outside: Path) -> Iterator[Path]:
    names = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
    for name in names:
        for kind in ("absolute", "relative", "chain"):
            folder = root / f"checkpoint-{name}-{kind}"
            write(folder, 1)
            inside, moved = folder / "step-00000001" / name, outside / f"checkpoint-{name}-{kind}"
            inside.rename(moved)
            link_to(inside, moved, kind)
            yield folder
    for index, name in enumerate(OUT):
        folder = root / f"checkpoint-{index}"
        write(folder, 1)
        manifest = folder / "step-00000001/manifest.json"
        facts = json.loads(manifest.read_text())
        secret = (outside / "secret").read_bytes()
        digest = hashlib.sha256(secret).hexdigest()
        facts["files"][name.replace("/OUTSIDE", str(outside))] = {"size": len(secret), "sha256": digest}
        manifest.write_text(json.dumps(facts))
        yield folder
    for kind in ("absolute", "relative"):
        folder = root / f"checkpoint-whole-{kind}"
        write(outside / kind, 1)
        folder.mkdir()
        link_to(folder / "step-00000001", outside / kind / "step-00000001", kind)
        yield folder


def shards(root: Path, outside: Path) -> Iterator[Path]:
    images = from_arrays("x", np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 1, 0, 1]), ("a", "b"))
    for index, name in enumerate(OUT):
        folder = pack(Splits(images, images.subset([0]), "x"), root / f"shards-{index}")
        facts = json.loads((folder / "index.json").read_text())
        name = name.replace("/OUTSIDE", str(outside))
        facts["shards"] = {name: (outside / "secret").stat().st_size}
        (folder / "index.json").write_text(json.dumps(facts))
        yield folder


def indexed(root: Path, outside: Path) -> Iterator[Path]:
    """Weights in several files, whose index names others."""
    for index, name in enumerate(OUT):
        folder = root / f"file-{index}"
        folder.mkdir()
        name = name.replace("/OUTSIDE", str(outside)).replace("secret", "secret.safetensors")
        safetensors.torch.save_file({"w": torch.ones(2)}, folder / "model-00001-of-00002.safetensors")
        shown = {"metadata": {}, "weight_map": {"w": "model-00001-of-00002.safetensors", "v": name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(shown))
        yield folder


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace (a Debian package)")
def test_no_name_and_no_link_leads_outside(tmp_path: Path) -> None:
    """The kernel's own list of what was opened holds nothing of the folder outside."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    safetensors.torch.save_file({"v": torch.ones(2)}, outside / "secret")
    shutil.copy(outside / "secret", outside / "secret.safetensors")
    cases = [case for make in (bundles, saved_checkpoints, shards, indexed) for case in make(root, outside)]
    words = ["strace", "-f", "-y", "-qq", "-e", "trace=open,openat,openat2", "-o", str(tmp_path / "trace")]
    done = subprocess.run([*words, sys.executable, "-c", READ_ALL, str(root)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split(maxsplit=1) == [str(len(cases)), "[]\n"]
    opened = re.findall(r"= \d+<([^>]*)>", (tmp_path / "trace").read_text())
    assert any(path.startswith(str(root)) for path in opened)
    assert [path for path in opened if path.startswith(str(outside))] == []
    assert len(cases) >= 50
    print(f"{len(cases)} paths that lead outside, all refused, none opened")


# --- C3: headers


def test_random_headers_are_refused_or_sound_and_quickly(tmp_path: Path, sweep: int) -> None:
    """1,000 of them, 20,000 under `make deep`: what passes has just the bytes it claims, in 50 ms at most."""
    rng, path, passed, slowest = random.Random(0), tmp_path / "x.safetensors", 0, 0.0
    good = safetensors.torch.save(
        {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.ones(4), "c": torch.tensor(1.0)}
    )
    length = int.from_bytes(good[:8], "little")
    tokens = [b"{", b"}", b"[", b"]", b",", b":", b'"a"', b'"F32"', b'"shape"', b'"data_offsets"', b"0", b"-1", b"1e99", b"NaN",
              b"4294967296", b'"\\u0000"', b'"__metadata__"', b"null", b"true", b"9" * 400]  # fmt: skip
    for _ in range(1_000 if sweep == 1 else 20_000):
        header = bytearray(good[8 : 8 + length])
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(header))
            header[at : at + rng.randint(0, 6)] = rng.choice([rng.choice(tokens), bytes([rng.randrange(256)]), b""])
        claimed = rng.choice([len(header), len(header), len(header), rng.getrandbits(rng.randint(1, 64))])
        path.write_bytes(struct.pack("<Q", claimed) + bytes(header) + good[8 + length :])
        began = time.perf_counter()
        try:
            check_header(path)
            passed += 1
            entries = json.loads(path.read_bytes()[8 : 8 + claimed])
            ends = [entry["data_offsets"][1] for name, entry in entries.items() if name != "__metadata__"]
            assert max(ends, default=0) == path.stat().st_size - 8 - claimed
        except WeightsError:
            pass
        slowest = max(slowest, time.perf_counter() - began)
    print(f"{1_000 if sweep == 1 else 20_000} headers, {passed} sound, the slowest check {1000 * slowest:.1f} ms")


# --- C5: keys, in every family

FAMILIES = {"vit": CONFIG} | {name: configs.FAMILIES[name] for name in ("v1", "hybrid mean", "padded windows")}
FAMILIES["distilled"] = dataclasses.replace(
    zoo.config("vit-ti/16", **dict(width=16, depth=1, heads=2, mlp_width=16)), classes=3
)


def digest(model: torch.nn.Module) -> str:
    content = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_mutated_key_of_every_family_is_named_and_nothing_is_half_loaded(family: str) -> None:
    model = zoo.build(FAMILIES[family])
    state = {name: tensor + 1 for name, tensor in model.state_dict().items()}
    before, tried = digest(model), 0
    for name, tensor in state.items():
        mutations = [
            {key: value for key, value in state.items() if key != name},
            {(f"{key}x" if key == name else key): value for key, value in state.items()},
            {**state, name: tensor[None]},
            {**state, name: tensor.to(torch.complex64 if tensor.is_floating_point() else torch.float32)},
            {**state, f"{name}.more": tensor},
        ]
        for mutated in mutations:
            with pytest.raises(WeightsError, match=re.escape(name)):
                fit.fit(model, mutated, where="file")
            tried += 1
    assert digest(model) == before
    print(f"{family}: {tried} mutations, all named, the model untouched")


# --- C7: numbers that are none, and a config that is not the tensors'


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", ["head.bias", "norm.weight"])
def test_a_number_that_is_none_is_refused_by_name(tmp_path: Path, place: str, value: float) -> None:
    model = a_model()
    with torch.no_grad():
        model.state_dict()[place].view(-1)[-1] = value
    bundle.save_bundle(tmp_path, model, RECORD)
    with pytest.raises(WeightsError, match=re.escape(place) + r".*allow_nonfinite=True"):
        bundle.load(tmp_path)


@pytest.mark.parametrize(
    "change", [{"depth": 3}, {"width": 64}, {"mlp_width": 96}, {"patch": (2, 2)}, {"classes": 7}, {"pool": "mean"}],
    ids=str,
)  # fmt: skip
def test_a_config_that_is_not_the_tensors_is_refused(tmp_path: Path, change: dict) -> None:
    bundle.save_bundle(tmp_path, a_model(), RECORD)
    record = json.loads((tmp_path / "record.json").read_text())
    del record["seal"]
    record["config"] |= {key: list(value) if isinstance(value, tuple) else value for key, value in change.items()}
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(VitrailError):
        bundle.load(tmp_path)
