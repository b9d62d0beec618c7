"""The published ViT files' names, and the outputs of the JAX code that wrote them, to 1e-12 in float64."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.golden import Golden
from vitrail.errors import WeightsError
from vitrail.models import zoo
from vitrail.weights import bundle
from vitrail.weights.files.readers import read_npz
from vitrail.weights.origin import SHAPES
from vitrail.weights.origins import google

pytestmark = pytest.mark.oracle

VARIANTS = ("gap", "token", "token_linen_names", "token_representation")
RESIZED = ("4x4_to_6x6", "4x4_to_6x6_gap", "7x7_to_12x12_rep_dropped")


def case(folder: Path) -> tuple[dict, dict[str, np.ndarray]]:
    return json.loads((folder / "meta.json").read_text()), dict(np.load(folder / "io.npz"))


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def heard(model) -> dict[str, torch.Tensor]:
    """The output of each named part of a running model."""
    outputs: dict[str, torch.Tensor] = {}
    parts = {"embedding": model.patch_embed, "encoder_norm": model.norm}
    parts |= {f"block_{index}": block for index, block in enumerate(model.blocks)}
    for name, part in parts.items():
        part.register_forward_hook(lambda _m, _i, out, name=name: outputs.__setitem__(name, out.detach()))
    model.head.register_forward_hook(
        lambda _m, inputs, out: outputs.update(pre_logits=inputs[0].detach(), logits=out.detach())
    )
    return outputs


def check(model, images: np.ndarray, meta: dict, io: dict[str, np.ndarray]) -> int:
    """Compares everything the model says with everything the file expects; gives how many arrays that were."""
    outputs = heard(model)
    compared = 0
    for suffix, dtype in (("", torch.float32), ("_f64", torch.float64)):
        model.to(dtype)(nchw(images).to(dtype))
        for name, ours in outputs.items():
            if (expected := io.get(name + suffix)) is not None:
                limit = meta["io"]["outputs"][name + suffix]["atol"]
                assert np.abs(ours.numpy().reshape(expected.shape) - expected).max() <= limit, name + suffix
                compared += 1
    return compared


@pytest.mark.parametrize("variant", VARIANTS)
def test_outputs_equal_the_originals(golden: Golden, variant: str) -> None:
    folder = golden / "google_vit" / variant
    meta, io = case(folder)
    model = bundle.load(folder / "checkpoint.npz")
    assert model.config.extras.activation == "gelu-tanh" and model.record.licence == "Apache-2.0"
    assert check(model, io["input"], meta, io) >= 7
    q, k, _ = model.blocks[0].attn.project(model.blocks[0].norm1(model.embed(nchw(io["input"]).double())))
    attention = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1).detach().numpy()
    if "attn_0" in io:
        assert np.abs(attention - io["attn_0"]).max() <= 1e-5


@pytest.mark.parametrize("variant", RESIZED)
def test_finetuning_at_another_size_equals_the_original(golden: Golden, variant: str) -> None:
    folder = golden / "google_vit_resize" / variant
    meta, io = case(folder)
    old = bundle.load(folder / "checkpoint.npz")
    logits = old(nchw(io["input_old_resolution"])).detach().numpy()
    assert np.abs(logits - io["logits_old_resolution"]).max() <= meta["io"]["outputs"]["logits_old_resolution"]["atol"]

    classes = len(io["new_head_bias"])
    keeps = meta["model"]["representation_size"] or 0
    config = zoo.change(old.config, image=tuple(meta["model"]["image_hw"]), classes=classes, pre_logits=keeps)
    model, report = bundle.load_for_finetuning(config, folder / "checkpoint.npz")
    assert not model.head.weight.any() and not model.head.bias.any()
    limit = meta["io"]["outputs"]["pos_embedding"]["atol"]
    assert np.abs(model.positions.table.detach().numpy() - io["pos_embedding"]).max() <= limit
    assert [line.split(" ")[0] for line in report.resized] == ["positions.table"]
    dropped = {"head.weight", "head.bias"} | (
        {"pre_logits.weight", "pre_logits.bias"} if old.config.extras.pre_logits and not keeps else set()
    )
    assert set(report.dropped) == dropped and set(report.new) == {"head.weight", "head.bias"}

    model.head.weight.data = torch.from_numpy(io["new_head_kernel"].T.copy())
    model.head.bias.data = torch.from_numpy(io["new_head_bias"])
    assert check(model.eval(), io["input"], meta, io) >= 5


@pytest.mark.parametrize("variant", RESIZED[:2])
def test_an_image_of_another_size_resizes_positions_on_the_way(golden: Golden, variant: str) -> None:
    """No reload: features of a 6×6 image from a 4×4 table, as after the original's resize."""
    meta, io = case(golden / "google_vit_resize" / variant)
    model = bundle.load(golden / "google_vit_resize" / variant / "checkpoint.npz")
    tokens = model.features(nchw(io["input"])).tokens.detach().numpy()
    assert np.abs(tokens - io["encoder_norm"]).max() <= meta["io"]["outputs"]["encoder_norm"]["atol"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table_reads_both_ways_and_is_a_bijection(golden: Golden, variant: str) -> None:
    path = golden / "google_vit" / variant / "checkpoint.npz"
    theirs, model = read_npz(path).tensors, bundle.load(path)
    style = "linen" if "linen" in variant else "published"
    made = google.ORIGIN.styles[style]
    rows = SHAPES["vit"].rows(made, model.config)
    assert sorted(row.ours for row in rows) == sorted(model.state_dict())
    assert sorted(name for row in rows for name in row.theirs) == sorted(theirs)
    back = google.ORIGIN.write(model.state_dict(), model.config, style=style)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[name], theirs[name]) for name in theirs)


def test_every_missing_or_strange_key_is_named(golden: Golden, tmp_path: Path) -> None:
    arrays = dict(np.load(golden / "google_vit/token/checkpoint.npz"))
    bias = arrays.pop("Transformer/encoder_norm/bias")
    del arrays["Transformer/encoderblock_1/LayerNorm_0/scale"]
    np.savez(tmp_path / "less.npz", extra=bias, **arrays)
    with pytest.raises(WeightsError) as error:
        bundle.load(tmp_path / "less.npz")
    for name in ("encoder_norm/bias", "encoderblock_1/LayerNorm_0/scale", "unknown extra", "less.npz"):
        assert name in str(error.value)


def test_a_file_of_no_known_origin_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", weight=np.zeros(3))
    with pytest.raises(WeightsError, match=r"no known origin.*google lacks"):
        bundle.load(tmp_path / "odd.npz")


def test_an_array_that_would_need_unpickling_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "evil.npz", weight=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="not a sound weights file"):
        bundle.load(tmp_path / "evil.npz")


def test_bfloat16_as_jax_writes_it(golden: Golden, tmp_path: Path) -> None:
    """numpy stores it as two bytes of "void"; some published files have it."""
    arrays = dict(np.load(golden / "google_vit/token/checkpoint.npz"))
    half = torch.from_numpy(arrays["cls"]).bfloat16()
    np.savez(tmp_path / "half.npz", **{**arrays, "cls": half.view(torch.int16).numpy().view("V2")})
    model = bundle.load(tmp_path / "half.npz")
    assert torch.equal(model.cls_token, half.float())
