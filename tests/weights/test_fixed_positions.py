"""A model with fixed sines and cosines, which is what the default recipe trains, leaves for other libraries and stays equal."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from vitrail import recipes
from vitrail.errors import ConfigError, WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models import zoo
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.record import Record, Weights

pytestmark = pytest.mark.oracle
IMAGE = (32, 48)
PREPROCESS = Preprocess(size=IMAGE, resize="crop", crop_fraction=0.9, interpolation="bicubic", mean=IMAGENET[0])


def weights(**changes) -> Weights:
    made = {"positions": "sincos", "pool": "mean", "image": IMAGE, "classes": 3, "patch": 8, **changes}
    model = zoo.build("vit-mu/16", **made)
    for index, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(index))
    record = Record(config=model.config, preprocess=PREPROCESS, classes=("a", "b", "c"))
    return Weights(model.state_dict(), record)


def model_of(held: Weights) -> torch.nn.Module:
    model = zoo.skeleton(held.record.config)
    model.load_state_dict(held.tensors, assign=True)
    return model.eval()


@torch.no_grad()
@pytest.mark.parametrize(
    ("to", "changes"),
    [
        ("timm", {}),
        ("timm", {"pool": "cls", "positions": "sincos-mae"}),
        ("timm", {"pool": "map"}),
        ("timm", {"pool": "cls", "registers": 2}),
        ("timm", {"activation": "gelu-tanh", "qk_norm": True, "layer_scale": 0.1, "final_norm": "pooled"}),
        ("transformers", {"pool": "cls"}),
        ("big_vision", {"activation": "gelu-tanh"}),
        ("google", {"activation": "gelu-tanh"}),
        ("dinov2", {"pool": "cls", "layer_scale": 0.1, "mask_token": True, "classes": 0}),
    ],
)
def test_the_converted_model_gives_the_same_numbers(tmp_path: Path, to: str, changes: dict) -> None:
    held = weights(**changes)
    if not held.record.config.classes:
        held = Weights(held.tensors, dataclasses.replace(held.record, classes=()))
    out = tmp_path / {"timm": "made", "transformers": "made", "dinov2": "x.safetensors"}.get(to, "x.npz")
    notes = convert(held, out, to)
    assert ("the fixed positions were written as a table" in notes) == (to != "big_vision")
    told = None if out.suffix == "" else {"image": list(IMAGE), "heads": held.record.config.heads}
    if to == "big_vision":
        told = {"image": list(IMAGE), "pool": "mean"}
    again, images = bundle.load(out, config=told), torch.randn(2, 3, *IMAGE).double()
    assert torch.equal(again.double()(images), model_of(held).double()(images))


@torch.no_grad()
@pytest.mark.parametrize(
    "changes",
    [{}, {"pool": "cls"}, {"pool": "map"}, {"pool": "cls", "positions": "learned", "registers": 2, "qkv_bias": False},
     {"activation": "gelu-tanh", "qk_norm": True, "layer_scale": 0.1, "final_norm": "pooled"}],
)  # fmt: skip
def test_timm_itself_builds_the_model_from_the_folder(tmp_path: Path, changes: dict) -> None:
    timm = pytest.importorskip("timm")
    held = weights(**changes)
    notes = convert(held, tmp_path / "made", "timm")
    assert not [note for note in notes if "tell whoever" in note or "images want" in note]
    theirs = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    images = torch.randn(2, 3, *IMAGE)
    assert torch.allclose(theirs(images), model_of(held)(images), atol=1e-5)
    data = timm.data.resolve_model_data_config(theirs)
    assert tuple(data["mean"]) == IMAGENET[0] and data["crop_pct"] == 0.9 and tuple(data["input_size"]) == (3, *IMAGE)


@torch.no_grad()
def test_timm_builds_what_the_recipe_for_small_folders_trains(tmp_path: Path) -> None:
    """Behind a ResNet's root: R+ViT-Ti/16 with other sizes is timm's name for it."""
    timm = pytest.importorskip("timm")
    run = recipes.recipe("folder:tiny")
    config = dataclasses.replace(run.model, image=run.preprocess.size, channels=3, classes=3)
    preprocess = dataclasses.replace(run.preprocess, mean=IMAGENET[0], std=IMAGENET[1])
    held = Weights(
        zoo.build(config, generator=torch.Generator().manual_seed(0)).state_dict(),
        Record(config=config, preprocess=preprocess, classes=("a", "b", "c")),
    )
    model = model_of(held)
    notes = convert(held, tmp_path / "made", "timm")
    assert not [note for note in notes if "tell whoever" in note]
    theirs = timm.create_model(f"local-dir:{tmp_path / 'made'}", pretrained=True).eval()
    images = torch.randn(2, 3, *config.image)
    assert torch.allclose(theirs(images), model(images), atol=1e-5)
    again = bundle.load(tmp_path / "made")
    assert again.record.classes == ("a", "b", "c") and torch.allclose(again(images), model(images), atol=1e-6)


def test_class_names_and_preprocessing_come_back(tmp_path: Path) -> None:
    convert(weights(), tmp_path / "made", "timm")
    record = bundle.load(tmp_path / "made").record
    assert record.classes == ("a", "b", "c") and record.preprocess == PREPROCESS
    about = json.loads((tmp_path / "made/config.json").read_text())
    assert about["architecture"] == "vit_base_patch16_224" and about["model_args"]["embed_dim"] == 32


@pytest.mark.parametrize(("to", "name"), [("timm", "made"), ("google", "x.npz"), ("transformers", "made")])
@pytest.mark.parametrize("positions", ["relative", "learned-2d"])
def test_positions_that_a_library_does_not_have_are_refused_about_the_model(
    tmp_path: Path, to: str, name: str, positions: str
) -> None:
    held = weights(positions=positions, pool="cls", activation="gelu-tanh" if to == "google" else "gelu")
    with pytest.raises(WeightsError) as error:
        convert(held, tmp_path / name, to)
    assert "lost" not in str(error.value) and "origin" not in str(error.value) and "its keys" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_the_name_of_the_file_and_of_the_library_are_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"allowed: a folder x or a file x\.safetensors"):
        convert(weights(), tmp_path / "x.npz", "timm")
    with pytest.raises(ConfigError, match="did you mean 'timm'"):
        convert(weights(), tmp_path / "x", "tim")
    assert not list(tmp_path.iterdir())
