"""Golden cases: where they are, and one of them through our reader, in float64."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitrail.models import zoo
from vitrail.weights.fit import fit
from vitrail.weights.origin import Foreign
from vitrail.weights.recognise import read_foreign

HERE = Path(__file__).parents[1] / "golden"


class Golden:
    """`golden / case / variant`: in this project, or in the whole set at `$VITRAIL_GOLDEN`; else the test is skipped."""

    def __init__(self, *parts: str) -> None:
        self.parts = parts

    def __truediv__(self, name: str) -> "Golden | Path":
        parts = (*self.parts, *name.split("/"))
        if len(parts) < 2:
            return Golden(*parts)
        roots = [HERE, *map(Path, filter(None, [os.environ.get("VITRAIL_GOLDEN")]))]
        for root in reversed(roots):
            if root.joinpath(*parts[:2]).is_dir():
                return root.joinpath(*parts)
        pytest.skip(f"{'/'.join(parts[:2])} is in the whole set of golden data only: say where it is by VITRAIL_GOLDEN")


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    if path.suffix == ".npz":
        return {name: torch.from_numpy(array) for name, array in np.load(path).items()}
    return torch.load(path, weights_only=True)


def read(path: Path, told: Mapping[str, Any] | None = None, **config) -> Foreign:
    return read_foreign(tensors_of(path), where=path.name, told=told, **config)[1]


def loaded(foreign: Foreign) -> torch.nn.Module:
    model = zoo.skeleton(foreign.config)
    fit(model, foreign.tensors, where="golden")
    return model.eval()


def case(folder: Path) -> tuple[dict, Mapping[str, np.ndarray], torch.Tensor]:
    """meta.json, io.npz and the input as B C H W."""
    meta, io = json.loads((folder / "meta.json").read_text()), np.load(folder / "io.npz")
    images = torch.from_numpy(io["input"])
    return meta, io, images.permute(0, 3, 1, 2).contiguous() if meta["input_layout"] == "NHWC" else images


def assert_equal_in_float64(model: torch.nn.Module, folder: Path) -> None:
    """Logits, and what the head reads where the case has it, to the tolerance of the case."""
    meta, io, images = case(folder)
    with torch.no_grad():
        pooled = model.double().pool(model.features(images.double()))
        found = {"logits_f64": model.head(pooled), "pre_logits_f64": pooled}
    for name, ours in found.items():
        if name in io:
            assert np.abs(ours.numpy() - io[name]).max() <= meta["io"]["outputs"][name]["atol"], name
    model.float()
    with torch.no_grad():
        assert np.abs(model(images).numpy() - io["logits"]).max() <= meta["io"]["outputs"]["logits"]["atol"]


def assert_bit_equal(back: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> None:
    assert back.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert back[name].dtype == tensor.dtype and torch.equal(back[name], tensor), name


def randomise(module: torch.nn.Module, seed: int = 0) -> None:
    """No parameter or statistic at zero or one, as in the golden data: a swapped or ignored one shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                spread = 0.5 if tensor.ndim < 2 else tensor[0].numel() ** -0.5
                tensor.normal_(std=spread, generator=generator)
                if name.endswith(("running_var", "norm.weight")) or (tensor.ndim == 1 and name.endswith("weight")):
                    tensor.abs_().add_(0.5)
