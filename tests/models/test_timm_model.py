"""`timm:NAME`: timm computes, and whatever Vitrail asks of a model works. The outputs are those of timm itself."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from vitrail.errors import ConfigError, ShapeError, WeightsError
from vitrail.models import cost, timm_model, zoo
from vitrail.weights import bundle
from vitrail.weights.record import Record
from vitrail.weights.timm_pretrained import read_pretrained, record_of

pytestmark = pytest.mark.oracle
timm = pytest.importorskip("timm")

NAMES = ("resnet18", "vit_tiny_patch16_224", "efficientnet_b0", "coatnet_nano_cc_224", "swin_tiny_patch4_window7_224")
SMALL = ("resnet18", "vit_tiny_patch16_224")


def pair(name: str, **changes) -> tuple[timm_model.TimmModel, torch.nn.Module]:
    """A model behind Vitrail's contract, and timm's own with the same numbers."""
    ours = zoo.build(f"timm:{name}", seed=3, **{"classes": 5, **changes}).eval()
    assert isinstance(ours, timm_model.TimmModel)
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(ours.head.weight, generator=generator)
    theirs = timm_model.create(ours.config, seed=9).eval()
    state = theirs.state_dict()
    state |= {key.removeprefix("body."): t for key, t in ours.state_dict().items() if key.startswith("body.")}
    theirs.load_state_dict(state)
    classifier = theirs.get_classifier()
    classifier.load_state_dict({"weight": ours.head.weight, "bias": ours.head.bias})
    return ours, theirs


@torch.no_grad()
@pytest.mark.parametrize("name", NAMES)
def test_logits_and_features_are_timm_s_to_the_bit(name: str) -> None:
    ours, theirs = pair(name)
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(ours(images), theirs(images))
    found, wanted = ours.features(images), theirs.forward_features(images)
    if wanted.ndim == 4:
        wanted = wanted if getattr(theirs, "output_fmt", "") == "NHWC" else wanted.permute(0, 2, 3, 1)
        wanted = wanted.flatten(1, 2)
    assert torch.equal(found.tokens, wanted)
    assert found.prefix + found.grid[0] * found.grid[1] == found.tokens.shape[1]
    assert found.map.shape[2:] == found.grid
    assert torch.equal(ours.pool(found), theirs.forward_head(theirs.forward_features(images), pre_logits=True))


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224"])
def test_oblong_images_and_other_channels(name: str) -> None:
    ours, theirs = pair(name, channels=5)
    images = torch.randn(1, 5, 224, 160)
    assert torch.equal(ours(images), theirs(images))
    assert ours.features(images).grid == ((14, 10) if "vit" in name else (7, 5))
    with pytest.raises(ShapeError, match="images of 3 channels"):
        ours(torch.randn(1, 3, 224, 160))


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_in_one_stage(name: str) -> None:
    model = zoo.build(f"timm:{name}", classes=3)
    parts = [part for _, stage in model.stages() for part in stage]
    found = [p for part in parts for p in (part.parameters() if isinstance(part, torch.nn.Module) else [part])]
    assert len(found) == len({id(p) for p in found}) and {id(p) for p in found} == {id(p) for p in model.parameters()}
    assert next(name for name, _ in model.stages()) == "stem" and model.stages()[-1] == ("head", [model.head])


def test_one_seed_gives_the_same_bits_and_leaves_torch_s_own_state_alone() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    first = zoo.build("timm:resnet18", classes=3, seed=5).state_dict()
    assert torch.equal(torch.rand(3), wanted)
    torch.manual_seed(2)
    second, third = (zoo.build("timm:resnet18", classes=3, seed=seed).state_dict() for seed in (5, 6))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["body.conv1.weight"], third["body.conv1.weight"])
    assert not first["head.weight"].any()


@torch.no_grad()
@pytest.mark.parametrize("name", ["resnet18", "swin_tiny_patch4_window7_224"])
def test_a_bundle_comes_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    """Swin keeps its table of relative positions in a buffer that no state has."""
    model, _ = pair(name)
    bundle.save_bundle(tmp_path, model, Record(config=model.config, preprocess=record_of(model.config).preprocess))
    again = bundle.load(tmp_path)
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(again(images), model(images)) and again.config == model.config
    assert again.state_dict().keys() == model.state_dict().keys()


def test_parameters_and_macs_are_counted() -> None:
    config = zoo.config("timm:resnet18")
    assert zoo.build(config).num_parameters == 11_689_512
    assert abs(cost.macs(config) / 1e9 - 1.814) < 0.01  # torchvision's table: 1.81


@pytest.mark.parametrize("name", SMALL)
def test_activations_can_be_computed_again(name: str) -> None:
    model = zoo.build(f"timm:{name}", classes=3).train()
    images = torch.randn(2, 3, 64, 64)
    grads = []
    for on in (False, True):
        model.checkpoint_activations = on
        assert model.checkpoint_activations == on
        model.zero_grad()
        model(images).sum().backward()
        grads.append([p.grad.clone() for p in model.head.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


# --- pre-trained weights, out of a cache as timm fills it


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> torch.nn.Module:
    """timm's resnet18 with random weights in the cache of the hub, and no network."""
    import huggingface_hub.constants as constants

    model = timm.create_model("resnet18.a1_in1k", pretrained=False)
    repo = model.pretrained_cfg["hf_hub_id"]
    snapshot = tmp_path / f"models--{repo.replace('/', '--')}/snapshots/abc"
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs/main").write_text("abc")
    safetensors.torch.save_file(model.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return model.eval()


@torch.no_grad()
def test_pre_trained_weights_come_with_timm_s_preprocessing_classes_and_licence(cached: torch.nn.Module) -> None:
    model = bundle.load("timm:resnet18.a1_in1k")
    images = torch.randn(1, 3, 224, 224)
    assert torch.equal(model(images), cached(images))
    record = model.record
    about = timm.data.resolve_data_config({}, model=cached)
    assert record.preprocess.mean == about["mean"] and record.preprocess.std == about["std"]
    assert record.preprocess.crop_fraction == about["crop_pct"]
    assert record.preprocess.interpolation == about["interpolation"]
    assert record.licence == "apache-2.0" and record.classes[1] == "goldfish" and len(record.classes) == 1000


def test_fine_tuning_takes_the_body_for_other_classes_and_channels(cached: torch.nn.Module) -> None:
    config = zoo.config("timm:resnet18.a1_in1k", classes=4, channels=1, image=64)
    model, report = bundle.load_for_finetuning(config, "timm:resnet18.a1_in1k")
    assert set(report.new) == {"head.weight", "head.bias"} and set(report.dropped) == {"head.weight", "head.bias"}
    assert [line.split(" ")[0] for line in report.resized] == ["body.conv1.weight"]
    kept = dict(model.state_dict())["body.layer1.0.conv1.weight"]
    assert torch.equal(kept, cached.state_dict()["layer1.0.conv1.weight"])
    grey = torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        tokens = model.eval().features(grey).map
        wanted = cached.forward_features(grey.expand(-1, 3, -1, -1))
    assert torch.allclose(tokens, wanted, atol=1e-4)


def test_a_vit_of_timm_for_another_size_has_its_positions_resized_as_timm_does() -> None:
    old, new = (zoo.config("timm:vit_tiny_patch16_224", image=size, classes=2) for size in (224, (96, 64)))
    ours = zoo.build(old, seed=1)
    there = ours.state_dict()["body.pos_embed"]
    resized = timm_model.resize_positions(there, old, new)
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=(96, 64))
    wanted = timm.models.vision_transformer.checkpoint_filter_fn({"pos_embed": there}, theirs)["pos_embed"]
    assert torch.equal(resized, wanted)


def test_without_weights_and_network_the_error_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r'could not be fetched .*vitrail.build\("timm:resnet18"\)'):
        read_pretrained("timm:resnet18")


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("resnet81", r"no model 'resnet81'; did you mean 'resnet"),
        ("deit_tiny_distilled_patch16_224", "no single linear"),
    ],
)
def test_names_that_are_none_and_models_with_two_heads(name: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        zoo.build(f"timm:{name}")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ConfigError, match=r"timm is not installed; pip install 'vitrail\[timm\]'"):
        zoo.config("timm:resnet18")
