"""The image towers that transformers has: random weights through its files, both ways, equal outputs in float64."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights import bundle
from vitrail.weights.convert import convert
from vitrail.weights.files.readers import read_any
from vitrail.weights.origin import ORIGINS
from vitrail.weights.published_file import read_sidecar
from vitrail.weights.recognise import read_foreign

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]  # theirs
os.environ.setdefault("HF_HUB_OFFLINE", "1")

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)).double()
ODD = torch.randn(2, 3, 48, 40, generator=torch.Generator().manual_seed(2)).double()
SIZES: dict[str, Any] = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32, "patch_size": 8
}  # fmt: skip
MLP = {"intermediate_size": 40}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 50}
TEXT |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "max_position_embeddings": 8}


@torch.no_grad()
def shaken(model: torch.nn.Module) -> torch.nn.Module:
    """No parameter is left at zero or one, where it would hide."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.normal_(std=0.3, generator=generator)
    return model.eval()


def build(name: str, kind: str, made: dict[str, Any]) -> Any:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{kind}Config")(**made)
    config._attn_implementation = "sdpa"  # the eager path computes softmax in float32
    return shaken(getattr(transformers, name)(config))


def close(one: Tensor, two: Tensor, limit: float = 1e-12) -> None:
    assert float((one - two).abs().max()) <= limit * max(1.0, float(two.abs().max()))


def tokens(model: Any, images: Tensor) -> Tensor:
    return model.features(images).tokens


def pooled(model: Any, images: Tensor) -> Tensor:
    return model.pool(model.features(images))


Read = tuple[str, Callable[[Any, Tensor], Tensor]]
HIDDEN: Read = ("last_hidden_state", tokens)
POOLED: Read = ("pooler_output", pooled)
LOGITS: Read = ("logits", lambda model, images: model(images))
RESIZED = {"interpolate_pos_encoding": True}

# class, config, its arguments, what is compared, how it is called with images of another size
TOWERS: dict[str, tuple[str, str, dict[str, Any], tuple[Read, ...], dict[str, Any]]] = {
    "I-JEPA": ("IJepaModel", "IJepa", {**SIZES, **MLP}, (HIDDEN,), RESIZED),
    "I-JEPA with head": ("IJepaForImageClassification", "IJepa", {**SIZES, **MLP, "num_labels": 5}, (LOGITS,), RESIZED),
    "MSN": ("ViTMSNModel", "ViTMSN", {**SIZES, **MLP}, (HIDDEN,), RESIZED),
    "MSN with head": ("ViTMSNForImageClassification", "ViTMSN", {**SIZES, **MLP, "num_labels": 5}, (LOGITS,), RESIZED),
    "Pixio": ("PixioModel", "Pixio", {**SIZES, "mlp_ratio": 2}, (HIDDEN,), {}),
    "TIPSv2": ("Tipsv2VisionModel", "Tipsv2Vision", {**SIZES, "mlp_ratio": 2}, (HIDDEN,), {}),
    "TIPSv2, gated": ("Tipsv2VisionModel", "Tipsv2Vision", {**SIZES, "use_swiglu_ffn": True}, (HIDDEN,), {}),
    "DINOv2 with registers": (
        "Dinov2WithRegistersModel",
        "Dinov2WithRegisters",
        {**SIZES, "mlp_ratio": 2, "num_register_tokens": 3},
        (HIDDEN,),
        {},
    ),
    "SigLIP": ("SiglipVisionModel", "SiglipVision", {**SIZES, **MLP}, (HIDDEN, POOLED), RESIZED),
    "SigLIP with erf": (
        "SiglipVisionModel",
        "SiglipVision",
        {**SIZES, **MLP, "hidden_act": "gelu", "layer_norm_eps": 1e-5},
        (POOLED,),
        RESIZED,
    ),
    "SigLIP classifier": (
        "SiglipForImageClassification",
        "Siglip",
        {"vision_config": {**SIZES, **MLP}, "text_config": TEXT, "num_labels": 5},
        (LOGITS,),
        RESIZED,
    ),
    "CLIP": ("CLIPVisionModel", "CLIPVision", {**SIZES, **MLP}, (HIDDEN, POOLED), RESIZED),
    "CLIP with erf": ("CLIPVisionModel", "CLIPVision", {**SIZES, **MLP, "hidden_act": "gelu"}, (POOLED,), RESIZED),
    "CLIP projected": (
        "CLIPVisionModelWithProjection",
        "CLIPVision",
        {**SIZES, **MLP, "projection_dim": 10},
        (("image_embeds", pooled),),
        RESIZED,
    ),
}


@pytest.mark.parametrize("which", TOWERS)
def test_transformers_towers(tmp_path: Path, which: str) -> None:
    name, kind, made, reads, call = TOWERS[which]
    theirs = build(name, kind, made)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bundle.load(tmp_path / "theirs").double()
    theirs = theirs.double()
    with torch.no_grad():
        for images, more in ((IMAGES, {}), (ODD, call)):
            outputs = theirs(images, **more)
            for read, mine in reads:
                # a table is resized in float32 where their code says so, whatever the model computes in
                close(mine(ours, images), getattr(outputs, read))
    same_bits_back(tmp_path / "theirs")


def same_bits_back(folder: Path) -> None:
    """The tensors read from a file, written again under its names, are the same bits."""
    content = read_any(folder / "model.safetensors")
    told = read_sidecar(folder / "model.safetensors").config
    name, foreign = read_foreign(content.tensors, where="file", told=told)
    style = ORIGINS[name].style(content.tensors.keys())
    assert style
    plain = ORIGINS[name].styles[style]
    theirs = {plain.plain(key): tensor for key, tensor in content.tensors.items()}
    theirs = {key: tensor for key, tensor in theirs.items() if not key.startswith(plain.leaves or ("\0",))}
    back = ORIGINS[name].write(foreign.tensors, foreign.config, style=style)
    assert back.keys() == theirs.keys()
    assert all(torch.equal(back[key], theirs[key]) for key in theirs)


WRITTEN = ("I-JEPA with head", "SigLIP", "SigLIP classifier", "CLIP", "CLIP projected", "Pixio")


@pytest.mark.parametrize("which", WRITTEN)
def test_transformers_loads_what_is_written_for_it(tmp_path: Path, which: str) -> None:
    transformers = pytest.importorskip("transformers")
    name, kind, made, reads, _ = TOWERS[which]
    build(name, kind, made).save_pretrained(tmp_path / "theirs")
    convert(bundle.read(tmp_path / "theirs"), tmp_path / "back", "transformers")
    ours = bundle.load(tmp_path / "back").double()
    again, told = getattr(transformers, name).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert not told["missing_keys"] or which == "SigLIP classifier"
    with torch.no_grad():
        for read, mine in reads:
            close(mine(ours, IMAGES), getattr(again.eval().double()(IMAGES), read), 1e-6)


def test_siglip_2_naflex_takes_any_grid(tmp_path: Path) -> None:
    """Their patches are flattened on the way in, channels last; ours are cut from an image of the same shape."""
    made = {name: value for name, value in {**SIZES, **MLP}.items() if name != "image_size"}
    theirs = build("Siglip2VisionModel", "Siglip2Vision", {**made, "num_patches": 16})
    theirs.save_pretrained(tmp_path)
    ours = bundle.load(tmp_path).double()
    assert ours.config.image == (32, 32) and ours.config.extras.position_resize == "bilinear-antialias"
    same_bits_back(tmp_path)
    for images in (IMAGES, ODD):
        h, w = images.shape[2] // 8, images.shape[3] // 8
        patches = images.unflatten(2, (h, 8)).unflatten(4, (w, 8)).permute(0, 2, 4, 3, 5, 1).reshape(2, h * w, -1)
        shapes = torch.tensor([[h, w]] * 2)
        with torch.no_grad():
            found = theirs.double()(patches, pixel_attention_mask=torch.ones(2, h * w), spatial_shapes=shapes)
            # their table is resized by weights in float32
            close(pooled(ours, images), found.pooler_output, 1e-12 if images is IMAGES else 1e-6)


@pytest.mark.parametrize("pair", ["CLIP", "Siglip"])
def test_of_a_pair_of_towers_the_image_tower_is_read(tmp_path: Path, pair: str) -> None:
    theirs = build(f"{pair}Model", pair, {"vision_config": {**SIZES, **MLP}, "text_config": TEXT, "projection_dim": 10})
    theirs.save_pretrained(tmp_path)
    ours = bundle.load(tmp_path).double()
    with torch.no_grad():
        close(pooled(ours, IMAGES), theirs.double().get_image_features(IMAGES).pooler_output)
    assert any("left out" in note and "text_model" in note for note in ours.record.notes)


def test_without_its_config_a_clip_says_which_gelu_it_took(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = build("CLIPVisionModel", "CLIPVision", {**SIZES, **MLP, "hidden_size": 192})
    theirs.save_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    ours = bundle.load(tmp_path)
    assert ours.config.extras.activation == "gelu-quick" and "activation gelu-quick" in caplog.text


@pytest.mark.parametrize("kind", ["aimv2", "yolos", "audio-spectrogram-transformer", "beit"])
def test_transformers_types_that_no_model_here_is(tmp_path: Path, kind: str) -> None:
    """By name, though a YOLOS has the tensors of a ViT with more tokens."""
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(WeightsError, match=f"model type '{kind}'.*timm:NAME"):
        bundle.load(tmp_path)
