"""Files next to the weights, names of files, and names of the hub."""

import dataclasses
import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from vitrail.errors import ConfigError, WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.files import hub
from vitrail.weights.origins import google, torchvision
from vitrail.weights.origins import timm_config as timm
from vitrail.weights.published_file import published_checkpoints
from vitrail.weights.record import Record, Weights

CONFIG = ViTConfig(width=24, depth=1, heads=3, mlp_width=16, patch=(8, 8), image=(32, 32), classes=3)


def weights(**changes) -> Weights:
    config = zoo.change(CONFIG, **changes)
    state = zoo.build(config, seed=1).state_dict()
    state = {name: tensor + 0.01 for name, tensor in state.items()}
    return Weights(state, Record(config=config, preprocess=Preprocess(size=config.image)))


@pytest.fixture
def timm_file(tmp_path: Path) -> Path:
    convert(weights(), tmp_path / "model.safetensors", "timm")
    return tmp_path / "model.safetensors"


def write(path: Path, **data) -> None:
    path.write_text(json.dumps(data))


# --- writing


@pytest.mark.parametrize(
    "facts",
    [{"threshold": 0.3}, {"numeric": True}, {"temperature": 2.0}, {"least": 0.9}],
    ids=lambda facts: next(iter(facts)),
)
@pytest.mark.parametrize("to", ["timm", "transformers"])
def test_how_outputs_are_to_be_read_is_told_where_a_file_cannot_say_it(facts: dict, to: str, tmp_path: Path) -> None:
    ours = weights(activation="gelu")
    record = dataclasses.replace(ours.record, **facts)
    ((name, value),) = facts.items()
    notes = convert(Weights(ours.tensors, record), tmp_path / "made", to)
    assert f"the file does not say {name} = {value}; tell whoever reads it" in notes
    assert not any(name in note for note in convert(ours, tmp_path / "made", to))


def test_a_folder_that_describes_other_weights_is_left_alone(tmp_path: Path) -> None:
    ours = weights(activation="gelu")
    convert(ours, tmp_path / "bundle", "vitrail")
    convert(ours, tmp_path / "hf", "transformers")
    for folder in ("bundle", "hf"):
        with pytest.raises(ConfigError, match="which does not describe these"):
            convert(ours, tmp_path / folder, "timm")
        assert bundle.load(tmp_path / folder).config.width == 24


# --- beside


def test_a_lost_last_layer_is_missed_where_config_json_leaves_the_usual_depth_out(tmp_path: Path) -> None:
    convert(weights(depth=12, activation="gelu"), tmp_path / "vit", "transformers")
    config, file = tmp_path / "vit/config.json", tmp_path / "vit/model.safetensors"
    write(
        config, **{name: value for name, value in json.loads(config.read_text()).items() if name != "num_hidden_layers"}
    )
    assert bundle.load(tmp_path / "vit").config.depth == 12
    tensors = safetensors.torch.load_file(file)
    safetensors.torch.save_file({name: t for name, t in tensors.items() if ".layer.11." not in name}, file)
    with pytest.raises(WeightsError, match=r"missing .*layer\.11"):
        bundle.load(tmp_path / "vit")


def test_timm_s_own_config_gives_preprocessing_names_and_heads(timm_file: Path) -> None:
    about = {
        "input_size": [3, 32, 32],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "license": "mit",
    }
    write(
        timm_file.parent / "config.json",
        architecture="vit_tiny_patch16_224",
        pretrained_cfg=about,
        global_pool="token",
        label_names=["a", "b", "c"],
        model_args={"num_heads": 3, "act_layer": "gelu_tanh"},
    )
    record = bundle.load(timm_file).record
    assert (
        record.config.heads == 3
        and record.config.extras.activation == "gelu-tanh"
        and record.classes == ("a", "b", "c")
    )
    wanted = {"resize": "crop", "crop_fraction": 0.9, "interpolation": "bicubic", "size": (32, 32)}
    assert record.preprocess == Preprocess(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), **wanted)
    assert record.licence == "mit"
    assert any("from config.json next to it: heads" in note for note in record.notes)


def test_fields_of_our_config_beside_and_given_ones_go_first(timm_file: Path) -> None:
    write(timm_file.parent / "model.json", heads=3, norm_eps=1e-5)
    assert bundle.load(timm_file).config.extras.norm_eps == 1e-5
    both = bundle.load(timm_file, config={"norm_eps": 1e-4})
    assert both.config.extras.norm_eps == 1e-4 and both.config.heads == 3
    with pytest.raises(ConfigError, match=r"unknown key 'head' \(did you mean 'heads'"):
        bundle.load(timm_file, config={"head": 3})
    write(timm_file.parent / "model.json", hedas=3)
    with pytest.raises(ConfigError, match="did you mean 'heads'"):
        bundle.load(timm_file, config={"heads": 3})


def test_a_config_beside_that_contradicts_the_tensors_is_an_error(tmp_path: Path) -> None:
    convert(weights(), tmp_path, "transformers")
    data = json.loads((tmp_path / "config.json").read_text())
    for change in ({"hidden_size": 48}, {"num_hidden_layers": 2}, {"patch_size": 4}, {"num_attention_heads": 5}):
        write(tmp_path / "config.json", **{**data, **change})
        with pytest.raises((WeightsError, ConfigError)):
            bundle.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "is not a readable JSON file"),
        ("[1]", "no JSON object"),
        ('{"model_type": "swin"}', "model type 'swin'"),
        ('{"model_type": "vit", "hidden_act": "relu"}', "hidden_act 'relu'"),
        ('{"model_type": "vit", "patch_size": "x"}', "model.safetensors|odd"),
        ('{"model_type": "vit", "id2label": {"a": "b"}}', "odd"),
    ],
)
def test_an_odd_file_beside_is_an_error_that_names_it(timm_file: Path, content: str, match: str) -> None:
    (timm_file.parent / "config.json").write_text(content)
    with pytest.raises((WeightsError, ConfigError), match=match):
        bundle.load(timm_file, config={"heads": 3})


PROCESSORS = {
    "squash": (
        {"size": {"height": 32, "width": 24}, "resample": 2},
        {"size": (32, 24), "resize": "squash", "interpolation": "bilinear"},
    ),
    "crop": (
        {
            "size": {"shortest_edge": 40},
            "do_center_crop": True,
            "crop_size": {"height": 32, "width": 32},
            "resample": 3,
        },
        {"size": (32, 32), "resize": "crop", "crop_fraction": 0.8, "interpolation": "bicubic"},
    ),
    "fraction": ({"size": 32, "crop_pct": 0.5}, {"size": (32, 32), "resize": "crop", "crop_fraction": 0.5}),
    "statistics": ({"size": 32, "image_mean": IMAGENET[0], "image_std": IMAGENET[1]}, {"mean": IMAGENET[0]}),
}


@pytest.mark.parametrize("kind", PROCESSORS)
def test_transformers_processors(tmp_path: Path, kind: str) -> None:
    said, wanted = PROCESSORS[kind]
    convert(weights(), tmp_path, "transformers")
    write(tmp_path / "preprocessor_config.json", **said)
    found = bundle.load(tmp_path).record.preprocess
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_preprocessing_survives_a_trip_through_transformers(tmp_path: Path) -> None:
    for index, preprocess in enumerate(
        (
            Preprocess(size=(32, 32), resize="crop", crop_fraction=0.875, interpolation="bicubic", mean=IMAGENET[0]),
            Preprocess(size=(32, 32), mean=(0.0, 0.1, 0.2), std=(1.0, 1.0, 1.0)),
        )
    ):
        one = weights()
        one = Weights(one.tensors, dataclasses.replace(one.record, preprocess=preprocess))
        convert(one, tmp_path / str(index), "transformers")
        again = bundle.load(tmp_path / str(index)).record.preprocess
        assert dataclasses.replace(again, crop_fraction=preprocess.crop_fraction) == preprocess
        assert abs(again.crop_fraction - preprocess.crop_fraction) < 0.02


NAMES_ONLY = [
    ("vit_base_patch32_siglip_gap_256", {"activation": "gelu-tanh"}),
    ("vit_large_patch16_siglip_512", {"activation": "gelu-tanh"}),
    ("vit_large_patch16_siglip_384", {}),
    ("vit_giantopt_patch16_siglip_256", {"activation": "gelu-tanh", "heads": 16}),
    ("vit_base_patch16_gap_224", {"heads": 16}),
    ("test_vit2", {"heads": 2}),
    ("deit3_base_patch16_224", {}),
    ("vit_base_patch16_clip_224", {"norm_eps": 1e-5}),
    ("vit_large_patch14_clip_quickgelu_336", {"norm_eps": 1e-5, "activation": "gelu-quick"}),
    ("eva02_base_patch14_448", {"rotary": "eva02", "rotary_grid": 16}),
    ("vit_huge_plus_patch16_dinov3", {"heads": 20, "rotary": "dinov3", "norm_eps": 1e-5}),
    ("vit_small_patch16_rope_ape_224", {"rotary": "rope-vit"}),
    ("vit_pe_spatial_base_patch16_512", {"rotary": "pe", "rotary_grid": 32, "norm_eps": 1e-5, "final_norm": "none"}),
]


@pytest.mark.parametrize(("name", "said"), NAMES_ONLY)
def test_what_only_the_name_of_timm_s_architecture_says(name: str, said: dict) -> None:
    assert timm.read_architecture(name) == said


@pytest.mark.parametrize(
    ("about", "match"),
    [
        ({"architecture": "vit_base_patch16_rpn_224"}, "norms behind its branches"),
        ({"architecture": "vit_small_patch16_rope_mixed_ape_224"}, "rotary positions with frequencies"),
        ({"architecture": "eva02_enormous_patch14_clip_224"}, "norms behind its branches"),
        ({"architecture": "vit_base_patch16_radio_v3"}, "cut from a larger table"),
        ({"architecture": "beitv2_base_patch16_224"}, "relative positions of its own"),
        ({"architecture": "aimv2_large_patch14_224"}, "RMS norms"),
        ({"architecture": "vit_dpwee_patch16_reg1_gap_256"}, "side by side"),
        ({"architecture": "vit_dwee_patch16_reg1_gap_256"}, "differential attention"),
        ({"architecture": "naflexvit_base_patch16_siglip"}, "cut for each shape"),
        ({"architecture": "vit_x", "model_args": {"act_layer": "relu"}}, "act_layer 'relu'"),
        ({"architecture": "vit_x", "model_args": {"rope_type": "mrope"}}, "rope_type 'mrope'"),
        ({"architecture": "vit_x", "model_args": {"block_fn": "ParallelScalingBlock"}}, "block_fn"),
    ],
)
def test_models_of_timm_that_would_fit_and_say_something_else_are_refused(
    timm_file: Path, about: dict, match: str
) -> None:
    write(timm_file.parent / "config.json", **about)
    with pytest.raises(WeightsError, match=match):
        bundle.load(timm_file, config={"heads": 3})


def test_a_lost_position_table_is_missed(timm_file: Path) -> None:
    tensors = safetensors.torch.load_file(timm_file)
    del tensors["pos_embed"]
    safetensors.torch.save_file(tensors, timm_file)
    with pytest.raises(WeightsError, match=r"has no pos_embed: it is lost, or .* rotary"):
        bundle.load(timm_file, config={"heads": 3})
    assert bundle.load(timm_file, config={"heads": 3, "positions": "none", "image": [32, 32]}).positions is None


def test_a_norm_before_the_blocks_goes_with_patches_without_bias(timm_file: Path) -> None:
    tensors = safetensors.torch.load_file(timm_file)
    tensors["norm_pre.weight"] = tensors["norm_pre.bias"] = torch.ones(24)
    safetensors.torch.save_file({name: tensor.clone() for name, tensor in tensors.items()}, timm_file)
    with pytest.raises(WeightsError, match=r"unknown patch_embed\.proj\.bias"):
        bundle.load(timm_file, config={"heads": 3})


def test_the_mean_beside_a_class_token_is_told_by_the_config_beside(timm_file: Path) -> None:
    assert bundle.load(timm_file, config={"heads": 3}).config.pool == "cls"
    write(timm_file.parent / "config.json", architecture="vit_tiny_patch16_224", global_pool="avg")
    assert bundle.load(timm_file, config={"heads": 3}).config.pool == "mean"


def test_names_of_timm_s_outputs(timm_file: Path) -> None:
    described = {"n1": "tench", "n2": "goldfish", "n3": "shark"}
    for names in (["n1", "n2", "n3"], {"0": "n1", "1": "n2", "2": "n3"}):
        write(timm_file.parent / "config.json", architecture="x", label_names=names, label_descriptions=described)
        assert bundle.load(timm_file, config={"heads": 3}).record.classes == ("tench", "goldfish", "shark")
    tuned = timm.read_classes({"num_classes": 1000, "pretrained_cfg": {"tag": "augreg_in21k_ft_in1k"}})
    assert len(tuned) == 1000 and tuned[0] == "tench"
    assert timm.read_classes({"num_classes": 1000, "pretrained_cfg": {"tag": "mine"}}) == ()


# --- names


def test_augreg_names_are_read() -> None:
    name = "B_16-i21k-300ep-lr_0.001-aug_medium1-wd_0.1-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.03-res_384.npz"
    assert google.read_training(name) == {
        "model": "vit-b/16",
        "data": "ImageNet-21k",
        "epochs": 300,
        "lr": 0.001,
        "augmentation": "medium1",
        "weight_decay": 0.1,
        "dropout": 0.0,
        "drop_path": 0.0,
        "tuned_on": "imagenet2012",
        "tuned_steps": 20_000,
        "tuned_lr": 0.03,
        "resolution": 384,
    }
    assert (
        google.read_training("R26_S_32-i1k-300ep-lr_0.001-aug_light1-wd_0.1-do_0.1-sd_0.1.npz")["model"]
        == "r26+vit-s/32"
    )
    assert (
        google.read_training("R_Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0.npz")["model"] == "r+vit-ti/16"
    )
    assert google.read_training("model.npz") == {}


def test_an_augreg_name_reaches_the_record(tmp_path: Path) -> None:
    name = "S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0--imagenet2012-steps_20k-lr_0.01-res_224.npz"
    convert(weights(activation="gelu-tanh", classes=1000), tmp_path / name, "google")
    record = bundle.load(tmp_path / name).record
    assert record.training["augmentation"] == "light1" and record.licence == "Apache-2.0"
    assert len(record.classes) == 1000 and record.classes[1] == "goldfish"
    bundle.save_bundle(tmp_path / "bundle", bundle.load(tmp_path / name), record)
    assert bundle.read_record(tmp_path / "bundle").training == record.training


SWAG = "vit_b_16_lc_swag-4e70ced5.pth"


@pytest.mark.parametrize(
    ("name", "wanted", "licence"),
    [
        (SWAG, {"crop_fraction": 1.0, "interpolation": "bicubic"}, "CC-BY-NC-4.0"),
        ("vit_l_16-852ce7e3.pth", {"crop_fraction": 224 / 242, "interpolation": "bilinear"}, "BSD-3-Clause"),
    ],
)
def test_torchvision_s_own_table_says_how_images_were_prepared(name: str, wanted: dict, licence: str) -> None:
    found = torchvision.read_name(name)
    assert found.licence == licence and wanted.items() <= found.preprocess.items()
    assert found.preprocess["mean"] == IMAGENET[0] and not torchvision.read_name("vit_mine-00000000.pth").licence


def test_a_file_of_torchvision_s_name_has_its_preprocessing_licence_and_classes(tmp_path: Path) -> None:
    one = weights(classes=1000, image=(224, 224))
    convert(one, tmp_path / "x.safetensors", "torchvision")
    torch.save(safetensors.torch.load_file(tmp_path / "x.safetensors"), tmp_path / SWAG)
    record = bundle.load(tmp_path / SWAG, config={"heads": 3}).record
    assert record.licence == "CC-BY-NC-4.0" and record.classes[0] == "tench"
    assert record.preprocess.interpolation == "bicubic" and record.preprocess.crop_fraction == 1.0


def test_every_published_checkpoint_is_a_model_of_the_zoo() -> None:
    listed = [one for _, one in published_checkpoints()]
    assert len({one.name for one in listed}) == len(listed)
    for one in listed:
        assert zoo.config(one.model) and one.licence and (one.top1 is None or 50 < one.top1 < 95)


# --- the hub


def cached(folder: Path, repo: str = "someone/vit", revision: str = "abc") -> Path:
    """A cache as huggingface_hub lays it out, with links into blobs/."""
    home = folder / f"models--{repo.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(revision)
    snapshot = home / "snapshots" / revision
    snapshot.mkdir(parents=True)
    return snapshot


def fill(snapshot: Path, made: Path) -> None:
    for file in made.iterdir():
        blob = snapshot.parent.parent / "blobs" / file.name
        blob.write_bytes(file.read_bytes())
        os.symlink(blob, snapshot / file.name)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a machine without a network."""
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache").mkdir()
    real = hub.__dict__.get("snapshot_download")
    assert real is None  # imported where it is used
    import huggingface_hub

    download = huggingface_hub.snapshot_download
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda *a, **k: download(*a, cache_dir=tmp_path / "cache", **k)
    )
    return tmp_path / "cache"


def test_a_cached_transformers_model_loads_without_a_network(offline: Path, tmp_path: Path) -> None:
    convert(weights(), tmp_path / "made", "transformers")
    fill(cached(offline), tmp_path / "made")
    images = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(bundle.load("hf:someone/vit")(images), bundle.load(tmp_path / "made")(images))
    assert bundle.read_record("hf:someone/vit@main").config.heads == 3
    assert bundle.load("hf:someone/vit/model.safetensors").config.heads == 3


def test_a_cached_bundle_loads_though_its_files_are_links(offline: Path, tmp_path: Path) -> None:
    convert(weights(), tmp_path / "made", "vitrail")
    fill(cached(offline), tmp_path / "made")
    assert bundle.load("hf:someone/vit").record.config == CONFIG


def test_what_is_not_cached_is_one_clear_sentence(offline: Path) -> None:
    with pytest.raises(WeightsError, match="not in the cache and the hub cannot be reached"):
        bundle.load("hf:someone/else")


def test_a_repository_without_the_file_says_so(offline: Path, tmp_path: Path) -> None:
    (cached(offline) / "README.md").write_text("x")
    with pytest.raises(WeightsError, match=r"has no model.safetensors; name one of its files"):
        bundle.load("hf:someone/vit")
    with pytest.raises(WeightsError, match=r"has no x\.npz"):
        bundle.load("hf:someone/vit/x.npz")


@pytest.mark.parametrize("name", ["hf:", "hf:one", "hf:../../etc", "hf:a/b/../../c", "hf:a b/c", "hf:a/b@", "hf:/a/b"])
def test_odd_names_of_the_hub_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match="is no name of the hub"):
        hub.fetch(name)


# --- links and numbers that are none


def test_a_bundle_s_own_files_are_no_links(tmp_path: Path) -> None:
    convert(weights(), tmp_path / "made", "vitrail")
    for name in ("model.safetensors", "record.json"):
        folder = tmp_path / f"linked {name}"
        convert(weights(), folder, "vitrail")
        (folder / name).unlink()
        os.symlink(tmp_path / "made" / name, folder / name)
        with pytest.raises(WeightsError, match="is a link"):
            bundle.load(folder)
    os.symlink(tmp_path / "made", tmp_path / "whole")  # a folder that was named may be one
    assert bundle.load(tmp_path / "whole").config == CONFIG


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
@pytest.mark.parametrize("to", ["vitrail", "timm"])
def test_nan_and_infinity_are_refused_unless_allowed(tmp_path: Path, number: float, to: str) -> None:
    bad = weights()
    bad.tensors["norm.weight"][3] = number
    out = tmp_path / ("made" if to == "vitrail" else "x.safetensors")
    convert(bad, out, to)
    say = {"heads": 3} if to == "timm" else None
    with pytest.raises(WeightsError, match=r"NaN or infinite: norm.weight \(1\)"):
        bundle.load(out, config=say)
    with pytest.raises(WeightsError, match="NaN or infinite"):
        bundle.load_for_finetuning(CONFIG, out, config=say)
    assert bundle.load(out, config=say, allow_nonfinite=True)
