"""timm, torchvision and transformers as installed: random weights through files, both ways, equal outputs in float64."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.mae import masking
from vitrail.models.positions import sincos
from vitrail.models.vit import ViTConfig
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.record import Record, Weights

pytestmark = pytest.mark.oracle

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing here asks the network

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
LARGER = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(2)).double()


@torch.no_grad()
def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """No parameter is left at zero or one, where it would hide."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def same(ours: torch.nn.Module, theirs, images: torch.Tensor = IMAGES, limit: float = 1e-10) -> None:
    with torch.no_grad():
        one, two = ours.double()(images), theirs(images)
    assert float((one - two).abs().max()) <= limit * max(1.0, float(two.abs().max()))


GATED = {"mlp_layer": "swiglu", "act_layer": "silu", "mlp_ratio": 2}
TIMM = {
    "class token": ({}, {}),
    "mean, fc_norm": ({"global_pool": "avg"}, {}),
    "mean without class token": ({"global_pool": "avg", "class_token": False, "fc_norm": False}, {}),
    "registers": ({"reg_tokens": 3, "no_embed_class": True}, {}),
    "registers with positions": ({"reg_tokens": 2}, {}),
    "map": ({"global_pool": "map", "class_token": False}, {}),
    "layer scale, qk norm": ({"init_values": 0.1, "qk_norm": True}, {}),
    "no positions": ({"pos_embed": "none"}, {"positions": "none"}),
    "tanh": ({"act_layer": "gelu_tanh"}, {"activation": "gelu-tanh"}),
    "no head": ({"num_classes": 0}, {}),
    "no qkv biases": ({"qkv_bias": False, "qk_norm": True}, {}),
    "map beside a class token": ({"global_pool": "map", "reg_tokens": 2}, {}),
    "map behind gates": ({"global_pool": "map", "class_token": False, **GATED}, {}),
    "gates": (GATED, {}),
}


@pytest.mark.parametrize("kind", TIMM)
def test_timm(tmp_path: Path, kind: str) -> None:
    timm = pytest.importorskip("timm")
    made, told = TIMM[kind]
    if "mlp_layer" in made:
        made = {**made, "mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    arguments = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5, **made}
    theirs = shaken(timm.models.VisionTransformer(**arguments))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    ours = bundle.load(tmp_path / "x.safetensors", config={"heads": 3, **told})
    same(ours, theirs.double())
    if kind not in ("no positions",):
        theirs = timm.models.VisionTransformer(**arguments, dynamic_img_size=True).eval()
        weights = bundle.read(tmp_path / "x.safetensors", config={"heads": 3, **told})
        convert(weights, tmp_path / "back.safetensors", "timm")
        theirs.load_state_dict(safetensors.torch.load_file(tmp_path / "back.safetensors"))
        same(ours, theirs.double(), LARGER)


@pytest.mark.parametrize("representation", [None, 12])
def test_torchvision(tmp_path: Path, representation: int | None) -> None:
    from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

    made = {"patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 40, "num_classes": 5}
    theirs = shaken(VisionTransformer(image_size=32, representation_size=representation, **made))
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    ours = bundle.load(tmp_path / "x.safetensors", config={"heads": 3})
    same(ours, theirs.double())
    larger = VisionTransformer(image_size=48, representation_size=representation, **made).eval()
    larger.load_state_dict(interpolate_embeddings(48, 8, theirs.float().state_dict()))
    images = torch.randn(1, 3, 48, 48).double()
    same(bundle.load(tmp_path / "x.safetensors", config={"heads": 3}, image=48), larger.double(), images)


def test_torchvision_s_published_names(tmp_path: Path) -> None:
    from torchvision.models.vision_transformer import VisionTransformer

    theirs = shaken(VisionTransformer(32, 8, 1, 3, 24, 40))
    old = {
        name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."): tensor
        for name, tensor in theirs.state_dict().items()
    }
    torch.save(old, tmp_path / "vit.pth")
    ours = bundle.load(tmp_path / "vit.pth", config={"heads": 3})
    same(ours, theirs.double())
    assert len(ours.record.classes) == 1000 and ours.record.classes[0] == "tench"
    assert ours.record.licence == "BSD-3-Clause" and ours.record.preprocess.mean[0] == 0.485


SMALL = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
}
MLP = {"intermediate_size": 40}
TRANSFORMERS = {
    "ViT": ("ViT", "ForImageClassification", MLP),
    "ViT, tanh": ("ViT", "ForImageClassification", {**MLP, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 1e-6}),
    "ViT, no qkv biases": ("ViT", "ForImageClassification", {**MLP, "qkv_bias": False}),
    "DeiT": ("DeiT", "ForImageClassification", MLP),
    "DeiT with teacher": ("DeiT", "ForImageClassificationWithTeacher", MLP),
    "DINOv2": ("Dinov2", "ForImageClassification", {"mlp_ratio": 2}),
    "DINOv2, tanh": ("Dinov2", "ForImageClassification", {"mlp_ratio": 2, "hidden_act": "gelu_new"}),
    "DINOv2, gated": ("Dinov2", "ForImageClassification", {"use_swiglu_ffn": True}),
    "DINOv2, no qkv biases": ("Dinov2", "ForImageClassification", {"mlp_ratio": 2, "qkv_bias": False}),
    "DINOv2 with registers": ("Dinov2WithRegisters", "ForImageClassification", {"mlp_ratio": 2}),
}


@pytest.mark.filterwarnings("ignore")  # theirs
@pytest.mark.parametrize("kind", TRANSFORMERS)
def test_transformers(tmp_path: Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    name, task, made = TRANSFORMERS[kind]
    config = getattr(transformers, f"{name}Config")(**SMALL, **made)
    build = getattr(transformers, f"{name}{task}")
    theirs = shaken(build(config))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bundle.load(tmp_path / "theirs")

    def logits(model):
        return lambda images: model(images, **call(images)).logits

    def call(images: torch.Tensor) -> dict:
        return {"interpolate_pos_encoding": True} if images is LARGER and name in ("ViT", "DeiT") else {}

    same(ours, logits(theirs.double()), limit=1e-6)  # theirs computes some softmaxes in float32
    same(ours, logits(theirs), LARGER, limit=1e-5)
    convert(bundle.read(tmp_path / "theirs"), tmp_path / "back", "transformers")
    again = build.from_pretrained(tmp_path / "back").eval().double()
    same(bundle.load(tmp_path / "back"), logits(again), limit=1e-6)
    one, two = theirs.float().state_dict(), again.float().state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("biases", [True, False])
def test_transformers_mae_as_it_is_saved_today(tmp_path: Path, biases: bool) -> None:
    transformers = pytest.importorskip("transformers")
    made = {name: value for name, value in SMALL.items() if name != "num_labels"} | MLP | {"qkv_bias": biases}
    half = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    made |= {f"decoder_{name}": value for name, value in half.items()}
    theirs = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**made, mask_ratio=0.5)).eval()
    generator = torch.Generator().manual_seed(7)
    for name, parameter in theirs.named_parameters():
        if "position" not in name and "pos_embed" not in name:
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        else:  # transformers 5 leaves them zero; published files hold the table
            table = sincos((4, 4), parameter.shape[2], "sincos-mae")
            parameter.data.copy_(torch.cat([torch.zeros(1, 1, parameter.shape[2]), table], dim=1))
    theirs.save_pretrained(tmp_path)
    ours, noise = bundle.load(tmp_path).double(), torch.rand(2, 16, generator=generator)
    with torch.no_grad():
        two = theirs.double()(IMAGES, noise=noise).logits
        one = ours.predict(IMAGES, masking(noise, 0.5))
    assert float((one - two).abs().max()) <= 1e-6 * float(two.abs().max())
    convert(bundle.read(tmp_path), tmp_path / "back", "transformers")
    again = transformers.ViTMAEForPreTraining.from_pretrained(tmp_path / "back", mask_ratio=0.5).eval()
    with torch.no_grad():
        assert float((again.double()(IMAGES, noise=noise).logits - two).abs().max()) <= 1e-12 * float(two.abs().max())


@pytest.mark.filterwarnings("ignore")
def test_transformers_mae_s_encoder_alone(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = {name: value for name, value in SMALL.items() if name != "num_labels"} | MLP
    theirs = shaken(transformers.ViTMAEModel(transformers.ViTMAEConfig(**made, mask_ratio=0.0)))
    theirs.save_pretrained(tmp_path)
    ours, in_order = bundle.load(tmp_path), torch.arange(16.0).repeat(2, 1)
    with torch.no_grad():
        two = theirs.double()(IMAGES, noise=in_order).last_hidden_state
        one = ours.double().features(IMAGES).tokens
    assert float((one - two).abs().max()) <= 1e-6 * float(two.abs().max())


BIT = {"embedding_size": 32, "hidden_sizes": [128, 256], "depths": [1, 2], "num_labels": 5}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["ForImageClassification", "Model"])
def test_transformers_bit_both_ways(tmp_path: Path, task: str) -> None:
    transformers = pytest.importorskip("transformers")
    build = getattr(transformers, f"Bit{task}")
    theirs = shaken(build(transformers.BitConfig(**BIT))).double()
    theirs.float().save_pretrained(tmp_path / "theirs")
    ours = bundle.load(tmp_path / "theirs")

    def outputs(model):
        return lambda images: model(images).logits if task != "Model" else model(images).pooler_output.flatten(1)

    same(ours, outputs(theirs.double()), LARGER)
    convert(bundle.read(tmp_path / "theirs"), tmp_path / "back", "transformers")
    same(ours, outputs(build.from_pretrained(tmp_path / "back").eval().double()), LARGER)


ODD = [
    ("ViTForImageClassification", {**SMALL, **MLP, "pooler_act": "relu"}, "pooler_act 'relu'"),
    ("BitForImageClassification", {**BIT, "global_padding": "SAME"}, "global_padding 'SAME'"),
    ("BitForImageClassification", {**BIT, "embedding_dynamic_padding": True}, "embedding_dynamic_padding"),
    ("BitForImageClassification", {**BIT, "output_stride": 8}, "output_stride 8"),
    ("BitForImageClassification", {**BIT, "num_groups": 16}, "num_groups 16"),
    ("BitForImageClassification", {**BIT, "hidden_act": "gelu"}, "hidden_act 'gelu'"),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "made", "match"), ODD)
def test_what_transformers_computes_otherwise_is_refused(tmp_path: Path, name: str, made: dict, match: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, name.replace("ForImageClassification", "Config"))
    getattr(transformers, name)(kind(**made)).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=match):
        bundle.load(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_shards_are_read_as_one_file(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = shaken(transformers.ViTForImageClassification(transformers.ViTConfig(**SMALL, **MLP)))
    theirs.save_pretrained(tmp_path / "one")
    theirs.save_pretrained(tmp_path / "many", max_shard_size="20KB")
    index = tmp_path / "many/model.safetensors.index.json"
    one = bundle.read(tmp_path / "one")
    for path in (tmp_path / "many", index):
        many = bundle.read(path)
        assert many.record.config == one.record.config and many.tensors.keys() == one.tensors.keys()
        assert all(torch.equal(many.tensors[name], tensor) for name, tensor in one.tensors.items())
    listed = json.loads(index.read_text())
    name, shard = next(iter(listed["weight_map"].items()))
    for lie, message in (
        ({**listed["weight_map"], name: "../one/model.safetensors"}, "lie beside it"),
        ({**listed["weight_map"], name: "model-00099-of-00099.safetensors"}, "not beside it"),
        ({**listed["weight_map"], "another": shard}, "do not agree about another"),
        ([], "no weight_map"),
    ):
        index.write_text(json.dumps({**listed, "weight_map": lie}))
        with pytest.raises(WeightsError, match=message):
            bundle.read(tmp_path / "many")


@pytest.mark.filterwarnings("ignore")
def test_a_bare_transformers_model_and_its_pooler(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = shaken(transformers.ViTModel(transformers.ViTConfig(**SMALL, **MLP)))
    theirs.save_pretrained(tmp_path)
    ours = bundle.load(tmp_path)
    assert ours.config.extras.pre_logits == 24 and not ours.config.classes
    same(ours, lambda images: theirs.double()(images).pooler_output, limit=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_ours_runs_in_transformers_with_its_preprocessing(tmp_path: Path) -> None:
    """A model built here loads in transformers, with its class names and its statistics."""
    transformers = pytest.importorskip("transformers")
    config = ViTConfig(width=24, depth=1, heads=3, mlp_width=16, patch=(8, 8), image=(32, 32), classes=3)
    model = shaken(zoo.build(config))
    preprocess = Preprocess(size=(32, 32), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    record = Record(config=config, preprocess=preprocess, classes=("cat", "dog", "überfisch"))
    convert(Weights(model.state_dict(), record), tmp_path, "transformers")
    theirs = transformers.ViTForImageClassification.from_pretrained(tmp_path).eval()
    assert theirs.config.id2label == {0: "cat", 1: "dog", 2: "überfisch"}
    same(model, lambda images: theirs.double()(images).logits, limit=1e-6)
    again = bundle.load(tmp_path)
    assert again.record.classes == record.classes and again.record.preprocess == preprocess
