"""Hybrids against vision_transformer's and timm's outputs, files both ways, parameters and compute as published."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.support.golden import (
    Golden,
    assert_bit_equal,
    assert_equal_in_float64,
    case,
    loaded,
    randomise,
    read,
    tensors_of,
)
from vitrail.errors import WeightsError
from vitrail.models import cost, zoo
from vitrail.models.hybrid import HybridConfig
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.fit import adapt, at_size, fit
from vitrail.weights.origin import ORIGINS
from vitrail.weights.recognise import read_foreign

pytestmark = pytest.mark.oracle

STYLES = {"published": ("google", "hybrid"), "linen": ("google", "hybrid, linen"), "timm": ("timm", "hybrid")}

# the file, what it cannot say, how it names its tensors
CASES = {
    "google_hybrid/r26_32_style_small": ("checkpoint.npz", {"image": [64, 96]}, "published"),
    "google_hybrid/r50_b16_style": ("checkpoint.npz", {}, "published"),
    "google_hybrid/root_only_patch8": ("checkpoint.npz", {}, "published"),
    "timm_hybrid/r_s8": ("checkpoint.pth", {"heads": 4}, "timm"),
}
SMALL = HybridConfig(
    depths=(1, 1), widths=(128, 256), root_width=32, width=192, depth=2, heads=3, mlp_width=64, image=(64, 64), classes=7
)  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_outputs_equal_the_original_s(golden: Golden, name: str) -> None:
    file, told, _ = CASES[name]
    assert_equal_in_float64(loaded(read(golden / name / file, told)), golden / name)


@pytest.mark.parametrize("name", CASES)
def test_every_step_equals_the_original_s(golden: Golden, name: str) -> None:
    """The ResNet's stages, the embedding, each block and the last norm, in float32 to the case's own tolerances."""
    meta, io, images = case(golden / name)
    file, told, style = CASES[name]
    model = loaded(read(golden / name / file, told))
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        x = found["root"] = found["stem"] = model.resnet.stem(images)
        for stage, units in enumerate(model.resnet.blocks, 1):
            for unit in units:
                x = unit(x)
            found[f"stage_{stage}"] = x
        h, w = model.config.grid
        found["embedding"] = model.vit.patch_embed(x).transpose(1, 2).unflatten(2, (h, w))
        tokens = model.vit.embed(x)
        for index, block in enumerate(model.vit.blocks):
            tokens = found[f"block_{index}"] = block(tokens)
        found["encoder_norm"] = found["features"] = model.vit.norm(tokens)
        assert torch.equal(found["features"], model.features(images).tokens)
    for key in found.keys() & set(io):
        ours = found[key]
        ours = ours.permute(0, 2, 3, 1) if ours.ndim == 4 and style != "timm" else ours
        assert np.abs(ours.numpy() - io[key]).max() <= meta["io"]["outputs"][key]["atol"], key
    assert len(found.keys() & set(io)) >= 4


@pytest.mark.parametrize("name", CASES)
def test_files_are_written_back_bit_for_bit(golden: Golden, name: str) -> None:
    file, told, style = CASES[name]
    theirs, foreign = tensors_of(golden / name / file), read(golden / name / file, told)
    origin, name = STYLES[style]
    assert_bit_equal(ORIGINS[origin].write(foreign.tensors, foreign.config, name), theirs)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_reads_what_it_writes(style: str) -> None:
    origin, name = STYLES[style]
    state = zoo.build(SMALL, seed=2).state_dict()
    foreign = read_foreign(ORIGINS[origin].write(state, SMALL, name), where="made")[1]
    assert_bit_equal(foreign.tensors, state)
    assert foreign.config.grid == SMALL.grid and foreign.config.heads == 3


def test_what_a_file_cannot_say_is_asked_for(golden: Golden) -> None:
    with pytest.raises(WeightsError, match="6 positions make no square grid"):
        read(golden / "google_hybrid/r26_32_style_small/checkpoint.npz")
    with pytest.raises(WeightsError, match="does not say its heads"):
        read(golden / "timm_hybrid/r_s8/checkpoint.pth")


@pytest.mark.parametrize("size", [(64, 64), (72, 104)])
def test_live_timm_in_float64(size: tuple[int, int]) -> None:
    from timm.models.vision_transformer import VisionTransformer
    from timm.models.vision_transformer_hybrid import HybridEmbed, _resnetv2

    backbone = _resnetv2(layers=(1, 1), channels=(128, 256), stem_chs=32)
    embed = {"embed_layer": lambda **options: HybridEmbed(backbone, **options)}
    theirs = VisionTransformer(
        img_size=size, patch_size=1, embed_dim=192, depth=2, num_heads=3, mlp_ratio=1 / 3, num_classes=7, **embed
    )
    theirs = theirs.double().eval()
    randomise(theirs)
    told = {"image": list(size)}
    foreign = read_foreign(theirs.state_dict(), where="timm", told=told)[1]
    model = zoo.build(foreign.config).double().eval()
    model.load_state_dict(foreign.tensors)
    images = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(model(images), theirs(images), rtol=0, atol=1e-10)


def test_fine_tuning_resizes_positions_and_drops_the_head() -> None:
    state = zoo.build(SMALL, seed=2).state_dict()
    new = zoo.build(SMALL, seed=3, image=(96, 64), classes=3)
    fitted, report = adapt(state, SMALL, new.state_dict(), new.config, where="here")
    fit(new, fitted, where="here")
    assert torch.equal(new.resnet.root.weight, state["resnet.root.weight"])
    assert report.resized == ("vit.positions.table 1×65×192 → 1×97×192",)
    assert set(report.new) == {"vit.head.weight", "vit.head.bias"} and not new.head.weight.any()


def test_another_size_is_the_same_model_with_positions_resized() -> None:
    """Resized once or at every call: the same outputs."""
    model = zoo.build(SMALL, seed=2).eval()
    model.head.weight.data.normal_()
    larger = zoo.build(SMALL, image=(96, 64)).eval()
    larger.load_state_dict(at_size(model.state_dict(), SMALL, larger.config))
    images = torch.randn(2, 3, 96, 64)
    assert torch.allclose(larger(images), model(images), atol=1e-5)


TABLE_6 = [
    ("r50+vit-b/32", 7, 106),
    ("r50+vit-b/16", 7, 274),
    ("r50+vit-l/32", 7, 246),
    ("r50+vit-l/16", 7, 859),
    ("r50+vit-l/16", 14, 1668),
]


@pytest.mark.parametrize(("name", "epochs", "published"), TABLE_6)
def test_training_compute_reproduces_table_6_within_3_percent(name: str, epochs: int, published: float) -> None:
    assert cost.exaflops(zoo.config(name), epochs * 303e6) == pytest.approx(published, rel=0.03)


def test_parameters_and_macs_equal_the_published_to_the_unit(golden: Golden) -> None:
    facts = json.loads((golden / "model_facts/subset/facts.json").read_text())
    rows = {name.lower(): row for name, row in facts["timm"].items() if name.startswith("R")}
    assert set(rows) == {"r50+vit-b/16", "r26+vit-s/32"}
    for name, row in rows.items():
        config = zoo.config(name)
        assert (cost.count_parameters(config), cost.macs(config)) == (row["params"], row["macs"])
        for classes in (1000, 21843):
            count = facts["vit_jax_params"][
                name.replace("/", "_").replace("vit-b", "ViT-B").replace("vit-s", "ViT-S").replace("r", "R")
            ]
            assert cost.count_parameters(zoo.config(name, classes=classes)) == count[f"num_classes_{classes}"]


def test_r_ti_16_divides_by_32() -> None:
    """Its name says 16, its code and its 49 positions at 224 pixels say 32."""
    config = zoo.config("r+vit-ti/16")
    assert config.grid == (7, 7) and config.resnet.stride * config.patch[0] == 32


def test_heads_of_no_published_width_go_into_timm_s_file_with_a_note(golden: Golden, tmp_path: Path) -> None:
    path, heads = golden / "timm_hybrid/r_s8/checkpoint.pth", {"heads": 4}
    notes = convert(bundle.read(path, config=heads), tmp_path / "x.safetensors", "timm")
    assert "the file does not say heads = 4; tell whoever reads it" in notes
    one, two = bundle.read(path, config=heads).tensors, bundle.read(tmp_path / "x.safetensors", config=heads).tensors
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_timm_s_hybrid_of_a_root_alone(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, depth=1, num_classes=5).eval()
    randomise(theirs)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    ours, images = bundle.load(tmp_path / "x.safetensors").double(), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    assert ours.config.depths == () and ours.config.patch == (8, 8)
    with torch.no_grad():
        assert torch.allclose(ours(images), theirs.double()(images), rtol=0, atol=1e-10)
    convert(bundle.read(tmp_path / "x.safetensors"), tmp_path / "back.safetensors", "timm")
    assert_bit_equal(safetensors.torch.load_file(tmp_path / "back.safetensors"), theirs.float().state_dict())
