"""Files of every origin of plain ViTs: outputs of the code that wrote them, in float64; and back, bit for bit."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support.golden import Golden
from vitrail.errors import ConfigError, WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.files.readers import read_any
from vitrail.weights.fit import fit
from vitrail.weights.name_tables import unstacked
from vitrail.weights.origin import ORIGINS
from vitrail.weights.recognise import read_foreign
from vitrail.weights.record import Record

pytestmark = pytest.mark.oracle

CASES = {
    "bigvision_vit": ("gap_learned", "gap_sincos2d_rep", "map", "map_scan", "tok"),
    "timm_vit": (
        "avg_pool",
        "dinov2_style_reg4_swiglu",
        "dynamic_img_size",
        "layerscale_qknorm",
        "map_pool_gelu_tanh",
        "reg4_gap",
        "token",
    ),
    "timm_deit": ("deit3", "distilled"),
    "deit_official": ("deit3_layerscale", "distilled"),
    "dinov2_official": ("interpolated", "masked", "mlp", "registers_interpolated", "swiglu"),
    "hf_deit": ("class_head_only", "with_teacher"),
    "hf_dinov2": ("classification", "model", "model_interpolated", "registers", "swiglu"),
    "hf_vit": ("base_model_with_pooler", "classification", "interpolated_position"),
    "mae_finetune_vit": ("cls_token", "global_pool"),
    "torchvision_vit": ("plain", "representation_size"),
}
ALL = [f"{case}/{variant}" for case, variants in CASES.items() for variant in variants]
FILES = ("checkpoint.npz", "checkpoint.pth", "model.safetensors")


def case(folder: Path) -> tuple[Path, dict, dict[str, np.ndarray]]:
    meta, io = json.loads((folder / "meta.json").read_text()), dict(np.load(folder / "io.npz"))
    return next(folder / name for name in FILES if (folder / name).is_file()), meta, io


def told(meta: dict) -> dict | None:
    """Facts that the files of these small models lack: heads of no published width, an oblong image without a table."""
    model = meta["model"]
    found = {"heads": model["num_heads"]} if "num_heads" in model and "mlp_dim" not in model else {}
    if "mlp_dim" in model and model.get("posemb") == "sincos2d":
        found["image"] = model["image_hw"]
    if "num_layers" in model:
        found["heads"] = model["num_heads"]
    if model.get("act_layer") == "gelu_tanh":
        found["activation"] = "gelu-tanh"
    return found or None


def images(meta: dict, io: dict) -> torch.Tensor:
    x = torch.from_numpy(io["input"])
    return x.permute(0, 3, 1, 2) if meta["input_layout"] == "NHWC" else x


@torch.no_grad()
def outputs(model, x: torch.Tensor, masks: np.ndarray | None = None) -> dict[str, np.ndarray]:
    features = model.features(x) if masks is None else model.features(x, torch.from_numpy(masks))
    pooled = model.pool(features)
    found = {"logits": model.head(pooled), "pre_logits": pooled, "pooler_output": pooled}
    found |= {"last_hidden_state": features.tokens, "x_norm_patchtokens": features.patches}
    if features.prefix:
        found["x_norm_clstoken"] = features.cls
    if model.config.family == "deit":  # theirs is the mean of two tokens, ours both side by side
        label, teacher = model.head.both(pooled)
        del found["pre_logits"]
        found |= {"cls_logits": label, "distillation_logits": teacher}
    return {name: tensor.numpy() for name, tensor in found.items()}


@pytest.mark.parametrize("which", ALL)
def test_outputs_equal_the_originals(golden: Golden, which: str) -> None:
    path, meta, io = case(golden / which)
    model = bundle.load(path, config=told(meta))
    compared = set()
    for suffix, dtype in (("", torch.float32), ("_f64", torch.float64)):
        ours = outputs(model.to(dtype), images(meta, io).to(dtype), io.get("masks"))
        for name, found in ours.items():
            if name + suffix in io:
                assert np.abs(found - io[name + suffix]).max() <= meta["io"]["outputs"][name + suffix]["atol"], name
                compared.add(name + suffix)
    assert any(name.endswith("_f64") for name in compared)


@pytest.mark.parametrize("which", ALL)
def test_back_to_their_names_bit_for_bit(golden: Golden, which: str) -> None:
    path, meta, _ = case(golden / which)
    content = read_any(path)
    name, foreign = read_foreign(content.tensors, where="file", told=_told(path, meta), wrapped=content.wrapped)
    origin = ORIGINS[name]
    style = origin.style(content.tensors.keys(), content.wrapped)
    assert style
    theirs = {origin.styles[style].plain(key): tensor for key, tensor in content.tensors.items()}
    back = origin.write(foreign.tensors, foreign.config, style=style)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


def _told(path: Path, meta: dict) -> dict:
    from vitrail.weights.published_file import read_sidecar

    return {**read_sidecar(path).config, **(told(meta) or {})}


@pytest.mark.parametrize("which", ["bigvision_vit/map", "bigvision_vit/map_scan", "timm_vit/layerscale_qknorm"])
@pytest.mark.parametrize("change", ["missing", "unknown", "misshapen"])
def test_each_single_mutated_key_is_caught_and_named(golden: Golden, which: str, change: str) -> None:
    path, meta, _ = case(golden / which)
    content = read_any(path)
    for key in content.tensors:
        tensors = dict(content.tensors)
        if change == "missing":
            del tensors[key]
        elif change == "unknown":
            tensors[key + "x"] = tensors.pop(key)
        else:
            tensors[key] = tensors[key][..., :-1]
        if change == "missing" and key.endswith("pos_embedding"):  # big_vision's sines and cosines have no table
            said = read_foreign(tensors, where="file", told=told(meta))[1].said
            assert any("positions sincos" in note for note in said)
            continue
        if change == "misshapen" and key == "patch_embed.proj.weight":  # patches of 8×7: no other tensor disagrees
            continue
        with pytest.raises((WeightsError, ConfigError)) as error:
            _, foreign = read_foreign(tensors, where="file", told=told(meta))
            model = zoo.skeleton(foreign.config)
            fit(model, foreign.tensors, where="file")
        assert error.value.found


@pytest.mark.parametrize(
    "which", ["bigvision_vit_resize/gap_4x4_to_6x6", "mae_finetune_vit/global_pool_resized_4x4_to_6x6"]
)
def test_finetuning_at_another_size_equals_the_original(golden: Golden, which: str) -> None:
    path, meta, io = case(golden / which)
    old = bundle.read_record(path, config=told(meta)).config
    weight, bias = (
        (io["head_weight"], io["head_bias"]) if "head_weight" in io else (io["new_head_kernel"].T, io["new_head_bias"])
    )
    config = dataclasses.replace(old, image=tuple(images(meta, io).shape[2:]), classes=len(bias))
    model, report = bundle.load_for_finetuning(config, path, config=told(meta))
    assert [line.split(" ")[0] for line in report.resized] == ["positions.table"]
    model.head.weight.data, model.head.bias.data = torch.from_numpy(weight.copy()), torch.from_numpy(bias)
    table = next(io[name] for name in ("pos_embedding", "pos_embed_resized") if name in io)
    assert np.abs(model.positions.table.detach().numpy() - table).max() <= 2e-5
    with torch.no_grad():
        logits = model.eval().double()(images(meta, io).double()).numpy()
    assert np.abs(logits - io["logits_f64"]).max() <= meta["io"]["outputs"]["logits_f64"]["atol"]


def test_dinov2_s_chunks_of_blocks_are_its_blocks(golden: Golden, tmp_path: Path) -> None:
    """Files of its training name each block behind its chunk: two blocks a chunk here."""
    path, meta, _ = case(golden / "dinov2_official/masked")
    plain = read_any(path).tensors
    chunked = {
        re.sub(r"^blocks\.(\d+)", lambda at: f"blocks.{int(at[1]) // 2}.{at[1]}", n): t for n, t in plain.items()
    }
    assert "blocks.0.1.attn.qkv.weight" in chunked
    one, two = (read_foreign(tensors, where="file", told=told(meta))[1] for tensors in (plain, chunked))
    assert one.config == two.config and one.tensors.keys() == two.tensors.keys()
    assert all(torch.equal(two.tensors[name], tensor) for name, tensor in one.tensors.items())


@pytest.mark.parametrize("which", ["google_vit/token", "bigvision_vit/tok", "torchvision_vit/plain"])
def test_missing_qkv_biases_are_missed_where_the_code_always_has_them(golden: Golden, which: str) -> None:
    path, meta, _ = case(golden / which)
    words = ("in_proj_bias", "query/bias", "key/bias", "value/bias")
    tensors = {name: tensor for name, tensor in read_any(path).tensors.items() if not name.endswith(words)}
    with pytest.raises(WeightsError, match="missing"):
        read_foreign(tensors, where="file", told=told(meta))


@pytest.mark.parametrize("to", ["google.npz", "torchvision.safetensors"])
def test_no_file_without_qkv_biases_for_code_that_wants_them(tmp_path: Path, to: str) -> None:
    model = zoo.build("vit-mu/16", image=32, qkv_bias=False)
    weights = bundle.Weights(model.state_dict(), Record(config=model.config, preprocess=Preprocess(size=(32, 32))))
    with pytest.raises(WeightsError, match="without qkv biases"):
        convert(weights, tmp_path / to, to.partition(".")[0])


# --- from one origin to another

MOVES = [
    ("bigvision_vit/map", "timm", {"heads": 4, "activation": "gelu-tanh"}),
    ("bigvision_vit/tok", "timm", {"heads": 3, "activation": "gelu-tanh"}),
    ("hf_vit/classification", "timm", {"heads": 4, "norm_eps": 1e-12}),
    ("hf_vit/classification", "torchvision", {"heads": 4, "norm_eps": 1e-12}),
    ("hf_deit/with_teacher", "timm", {"heads": 4, "norm_eps": 1e-12}),
    ("hf_dinov2/registers", "dinov2", {"heads": 3}),
    ("hf_dinov2/swiglu", "dinov2", {"heads": 3}),
    ("timm_vit/token", "transformers", None),
    ("timm_deit/distilled", "transformers", None),
    ("torchvision_vit/plain", "transformers", None),
    ("google_vit/token", "transformers", None),
    ("google_vit/gap", "timm", {"heads": 4, "activation": "gelu-tanh"}),
    ("dinov2_official/swiglu", "transformers", None),
    ("dinov2_official/registers_interpolated", "transformers", None),
    ("timm_vit/map_pool_gelu_tanh", "big_vision", None),
    ("google_vit/token", "google", None),
    ("timm_vit/reg4_gap", "vitrail", None),
]


@pytest.mark.parametrize(("which", "to", "say"), MOVES)
def test_converted_files_say_the_same(golden: Golden, tmp_path: Path, which: str, to: str, say: dict | None) -> None:
    path, meta, io = case(golden / which)
    weights = bundle.read(path, config=told(meta))
    suffix = {"transformers": "", "vitrail": "", "google": ".npz", "big_vision": ".npz"}.get(to, ".safetensors")
    out = tmp_path / f"model{suffix}"
    notes = convert(weights, out, to)
    if say and to == "timm":
        assert any("heads" in note for note in notes)
    again = bundle.load(out, config=say)
    x = images(meta, io).double()
    with (
        torch.no_grad()
    ):  # positions resized on the way are each origin's own; at the trained size all are the same bits
        first, second = bundle.load(path, config=told(meta)).double()(x), again.double()(x)
    assert torch.equal(first, second) or (x.shape[2:] != model_size(again) and torch.allclose(first, second, atol=1e-2))


def model_size(model) -> tuple[int, int]:
    return model.config.image


def test_a_file_that_would_be_read_as_another_function_is_refused(golden: Golden, tmp_path: Path) -> None:
    weights = bundle.read(golden / "timm_vit/token/checkpoint.pth", config={"heads": 4})
    with pytest.raises(WeightsError, match=r"google means activation='gelu-tanh', this model has activation='gelu'"):
        convert(weights, tmp_path / "x.npz", "google")
    assert not list(tmp_path.iterdir())
    with pytest.raises(WeightsError, match="big_vision has positions_on 'patches' and not 'all'"):
        convert(weights, tmp_path / "x.npz", "big_vision")
    weights = bundle.read(golden / "timm_vit/reg4_gap/checkpoint.pth", config={"heads": 4})
    with pytest.raises(WeightsError, match=r"torchvision has no names for .*registers"):
        convert(weights, tmp_path / "x.safetensors", "torchvision")
    with pytest.raises(WeightsError, match="timm trained itself, not a port of Google's"):
        bundle.read(golden / "timm_maxxvit/maxvit_rw_style/checkpoint.pth")
    weights = bundle.read(golden / "mae_pretrain/plain/checkpoint.pth", config=MAE)
    with pytest.raises(WeightsError, match="whether this decoder predicts pixels"):
        convert(weights, tmp_path, "transformers")


MAE = {"encoder": {"heads": 4}, "decoder_heads": 2}


def test_a_mask_token_stays_behind_aloud_where_there_is_no_name_for_it(golden: Golden, tmp_path: Path) -> None:
    path, meta, _ = case(golden / "dinov2_official/masked")
    notes = convert(bundle.read(path, config=told(meta)), tmp_path / "x.safetensors", "timm")
    assert "left out, as timm has no name for it: mask_token" in notes
    again = bundle.load(tmp_path / "x.safetensors", config=told(meta)).double()
    x = torch.randn(1, 3, *again.config.image, generator=torch.Generator().manual_seed(1)).double()
    assert torch.equal(again(x), bundle.load(path, config=told(meta)).double()(x))


# --- settings that no file has


def test_heads_of_no_published_width_must_be_said(golden: Golden) -> None:
    path = golden / "timm_vit/token/checkpoint.pth"
    with pytest.raises(WeightsError, match=r"does not say its heads.*\{\"heads\""):
        bundle.load(path)
    whole = bundle.load(path, config={"heads": 4}).config
    assert bundle.load(path, config=whole).config == whole


def test_a_published_width_has_its_heads_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    config = ViTConfig(width=192, depth=1, heads=3, mlp_width=16, patch=(4, 4), image=(8, 8), classes=2)
    model = zoo.build(config)
    weights = bundle.Weights(model.state_dict(), bundle.Record(config=config, preprocess=Preprocess(size=(8, 8))))
    convert(weights, tmp_path / "x.safetensors", "timm")
    loaded = bundle.load(tmp_path / "x.safetensors")
    assert loaded.config.heads == 3
    assert "not in the file, the default of timm: heads 3, activation gelu" in caplog.text
    assert any("heads 3" in note for note in loaded.record.notes)


def test_an_oblong_grid_must_be_said_and_a_wrong_one_is_refused(golden: Golden) -> None:
    content = read_any(golden / "timm_vit/token/checkpoint.pth")
    tensors = content.tensors
    tensors["pos_embed"] = tensors["pos_embed"][:, :13]  # class token and 12 patches
    with pytest.raises(WeightsError, match=r"13 rows, which fit no square grid"):
        read_foreign(tensors, where="file", told={"heads": 4})
    with pytest.raises(WeightsError, match="not the image's grid"):
        read_foreign(tensors, where="file", told={"heads": 4, "image": [32, 32]})
    assert read_foreign(tensors, where="file", told={"heads": 4, "image": [24, 32]})[1].config.grid == (3, 4)


def test_unstacking_is_undone_by_writing() -> None:
    stack = {"block/x": torch.arange(6.0).view(3, 2), "y": torch.ones(1)}
    assert sorted(unstacked(stack, "block/")) == ["block_0/x", "block_1/x", "block_2/x", "y"]
