"""CLIP, EVA-02, RoPE-ViT, PE and DINOv3 under the names of timm, open_clip, transformers and Meta, in float64.

Random weights through files, both ways. Every trap that changes outputs in silence has a test.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from tests.weights.test_towers import IMAGES, MLP, ODD, SIZES, build, close, same_bits_back, shaken
from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.positions import Rotation
from vitrail.weights import bundle
from vitrail.weights.convert import convert

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("ignore")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

SMALL: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5
}  # fmt: skip
EPS = {"norm_layer": lambda *sizes, **kwargs: torch.nn.LayerNorm(*sizes, eps=1e-5, **kwargs)}
ROPE = {"use_rot_pos_emb": True, "ref_feat_shape": (3, 3)}
DINO = {
    "use_rot_pos_emb": True, "rope_type": "dinov3", "rope_temperature": 100, "rope_rotate_half": True,
    "use_abs_pos_emb": False, "num_reg_tokens": 3, "use_fc_norm": False, "init_values": 0.1, "global_pool": "token",
}  # fmt: skip
PE = {"use_pre_transformer_norm": True, "attn_type": "rope", **ROPE, "rope_grid_indexing": "xy"}
AXIAL = {"attn_type": "rope", "use_rot_pos_emb": True, "rope_grid_indexing": "xy", "rope_temperature": 100.0}

# arguments of timm's Eva; what the name of its architecture would say; how its mean is normed
EVAS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "EVA": ({}, {}),
    "EVA-02": ({"swiglu_mlp": True, **ROPE}, {"rotary": "eva02", "rotary_grid": 3}),
    "EVA-02, split, norm in the MLP": (
        {"qkv_fused": False, "swiglu_mlp": True, "scale_mlp": True, **ROPE},
        {"rotary": "eva02", "rotary_grid": 3},
    ),
    "EVA-02 of CLIP, norms in both": (
        {
            "qkv_fused": False,
            "swiglu_mlp": True,
            "scale_mlp": True,
            "scale_attn_inner": True,
            "global_pool": "token",
            **ROPE,
        },
        {"rotary": "eva02", "rotary_grid": 3},
    ),
    "RoPE with registers": (
        {"init_values": 0.1, "class_token": False, "num_reg_tokens": 2, "use_abs_pos_emb": False, **ROPE},
        {"rotary": "eva02", "rotary_grid": 3},
    ),
    "RoPE-ViT": (
        {"init_values": 0.1, "global_pool": "token", "use_abs_pos_emb": False, **AXIAL},
        {"rotary": "rope-vit"},
    ),
    "RoPE-ViT with a table": ({"init_values": 0.1, "global_pool": "token", **AXIAL}, {"rotary": "rope-vit"}),
    "PE core": (
        {"global_pool": "map", "attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 4.0, "rope_grid_offset": 1.0, **PE},
        {"rotary": "pe", "rotary_grid": 3, "pool": "map", "pool_prefix": True, "pool_heads": 4},
    ),
    "PE core without class token": (
        {"global_pool": "map", "attn_pool_num_heads": 4, "attn_pool_mlp_ratio": 2.0, "class_token": False, **PE},
        {"rotary": "pe-patches", "rotary_grid": 3, "pool": "map", "pool_prefix": True, "pool_heads": 4},
    ),
    "PE spatial": (
        {"use_post_transformer_norm": False, "use_fc_norm": False, "rope_grid_offset": 1.0, "init_values": 0.1, **PE},
        {"rotary": "pe", "rotary_grid": 3, "final_norm": "none", "pool": "mean"},
    ),
    "DINOv3": ({"qkv_bias": False, **DINO, **EPS}, {"rotary": "dinov3", "norm_eps": 1e-5}),
    "DINOv3 with biases": ({"qkv_bias": True, **DINO, **EPS}, {"rotary": "dinov3", "norm_eps": 1e-5}),
    "DINOv3, gated": (
        {"qkv_bias": False, "swiglu_mlp": True, "swiglu_align_to": 8, **DINO, **EPS},
        {"rotary": "dinov3", "norm_eps": 1e-5},
    ),
}


def eva(which: str, **more: Any) -> Any:
    timm = pytest.importorskip("timm")
    made = shaken(timm.models.eva.Eva(**{**SMALL, **EVAS[which][0], **more}))
    if made.rope is not None:  # timm rounds cosines and sines to float32 in a float64 model too
        get = made.rope.get_embed
        made.rope.get_embed = lambda shape=None, **_: get(shape, dtype=torch.float64)
    return made


@pytest.mark.parametrize("which", EVAS)
def test_timm_s_eva_models(tmp_path: Path, which: str) -> None:
    theirs = eva(which, dynamic_img_size=True)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    said = {"heads": 2, **EVAS[which][1]}
    ours = bundle.load(tmp_path / "model.safetensors", config=said)
    with torch.no_grad():
        for images in (IMAGES, ODD):
            close(ours.double()(images), theirs.double()(images))
            close(ours.features(images).tokens, theirs.forward_features(images))
    (tmp_path / "config.json").write_text(json.dumps(said | {"image": [32, 32]}))
    same_bits_back(tmp_path)
    if which == "EVA":  # without biases of k it is a plain ViT, and is written as one
        return
    convert(bundle.read(tmp_path / "model.safetensors", config=said), tmp_path / "back.safetensors", "timm")
    again = eva(which, dynamic_img_size=True)
    again.load_state_dict(safetensors.torch.load_file(tmp_path / "back.safetensors"))
    with torch.no_grad():
        close(ours(ODD), again.double()(ODD))


@pytest.mark.parametrize("made", [{}, {"act_layer": "quick_gelu"}, {"num_classes": 0}], ids=str)
def test_timm_s_clip_towers(tmp_path: Path, made: dict[str, Any]) -> None:
    timm = pytest.importorskip("timm")
    arguments = {**SMALL, "pre_norm": True, "dynamic_img_size": True, **EPS, **made}
    theirs = shaken(timm.models.VisionTransformer(**arguments))
    if made.get("num_classes", 5):
        theirs.head.bias.data.zero_()  # as all published ones: their head is a projection
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    said = {"heads": 2, "norm_eps": 1e-5, "activation": "gelu-quick" if "act_layer" in made else "gelu"}
    ours = bundle.load(tmp_path / "model.safetensors", config=said).double()
    assert ours.config.extras.projection == made.get("num_classes", 5) and not ours.config.classes
    assert ours.patch_embed.bias is None and isinstance(ours.pre_norm, torch.nn.LayerNorm)
    with torch.no_grad():
        for images in (IMAGES, ODD):
            close(ours(images), theirs.double()(images))
    (tmp_path / "config.json").write_text(json.dumps(said))
    same_bits_back(tmp_path)


CLIPS = {"exact": {}, "quick": {"quick_gelu": True}, "scaled": {"vision_cfg": {"ls_init_value": 0.1}}}


def open_clip_model(which: str) -> Any:
    open_clip = pytest.importorskip("open_clip")
    more = dict(CLIPS[which])
    vision = {
        "image_size": 32,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
        **more.pop("vision_cfg", {}),
    }
    text = {"context_length": 8, "vocab_size": 50, "width": 16, "heads": 2, "layers": 1}
    return shaken(open_clip.CLIP(12, vision, text, **more)), {"vision_cfg": vision, "text_cfg": text, **more}


@pytest.mark.parametrize("which", CLIPS)
def test_open_clip_s_image_towers(tmp_path: Path, which: str) -> None:
    theirs, about = open_clip_model(which)
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "open_clip_model.safetensors")
    images = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "interpolation": "bicubic", "resize_mode": "squash"}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": about, "preprocess_cfg": images}))
    ours = bundle.load(tmp_path).double()
    assert ours.record.preprocess.mean == (0.1, 0.2, 0.3) and ours.record.preprocess.resize == "squash"
    with torch.no_grad():
        close(ours(IMAGES), theirs.double().encode_image(IMAGES))
    assert any("left out" in note and "token_embedding" in note for note in ours.record.notes)
    convert(bundle.read(tmp_path), tmp_path / "back.safetensors", "open_clip")
    back = safetensors.torch.load_file(tmp_path / "back.safetensors")
    assert back and all(torch.equal(back[name], theirs.float().state_dict()[name]) for name in back)


def test_quick_gelu_leaves_no_trace_and_is_told_by_what_there_is(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs, _ = open_clip_model("quick")
    file = tmp_path / "x.safetensors"
    safetensors.torch.save_file(theirs.state_dict(), file)
    assert bundle.load(file, config={"heads": 2}).config.extras.activation == "gelu"
    assert "activation gelu" in caplog.text
    openai = {**theirs.state_dict(), "input_resolution": torch.tensor(32), "context_length": torch.tensor(8)}
    safetensors.torch.save_file(openai, file)
    assert bundle.load(file, config={"heads": 2}).config.extras.activation == "gelu-quick"


def test_transformers_and_open_clip_norm_other_tokens_and_give_the_same_answer(tmp_path: Path) -> None:
    """transformers norms the class token alone, open_clip and timm all tokens."""
    theirs = build("CLIPVisionModelWithProjection", "CLIPVision", {**SIZES, **MLP, "projection_dim": 10})
    theirs.save_pretrained(tmp_path / "one")
    weights = bundle.read(tmp_path / "one")
    convert(weights, tmp_path / "two.safetensors", "open_clip")
    one = bundle.load(tmp_path / "one").double()
    two = bundle.load(tmp_path / "two.safetensors", config={"heads": 3, "activation": "gelu-quick"}).double()
    with torch.no_grad():
        close(one(IMAGES), two(IMAGES))
        assert not torch.allclose(one.features(IMAGES).patches, two.features(IMAGES).patches)


def dinov3(**made: Any) -> Any:
    return build("DINOv3ViTModel", "DINOv3ViT", {**SIZES, **MLP, "num_register_tokens": 2, "hidden_size": 48, **made})


@pytest.mark.parametrize(
    "made",
    [{}, {"use_gated_mlp": True, "hidden_act": "silu"}, {"query_bias": False, "value_bias": False}],
    ids=str,
)
def test_transformers_dinov3(tmp_path: Path, made: dict[str, Any]) -> None:
    theirs = dinov3(**made)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = bundle.load(tmp_path / "theirs").double()
    theirs = theirs.double()
    for images in (IMAGES, ODD):
        rotation = ours.rotation(ours.patch_embed.grid(images), images)[:, 0, 3:]
        with torch.no_grad():
            # theirs multiplies by 1 / period where Meta's code divides: one bit of a float32 angle
            close(torch.stack(theirs.rope_embeddings(images)), rotation, 2e-6)
            theirs.rope_embeddings.forward = lambda _, turns=rotation: (turns[0], turns[1])
            outputs = theirs(images)
            del theirs.rope_embeddings.forward
            close(ours.features(images).tokens, outputs.last_hidden_state)
            close(ours(images), outputs.pooler_output)
    same_bits_back(tmp_path / "theirs")
    convert(bundle.read(tmp_path / "theirs"), tmp_path / "back", "transformers")
    again = type(theirs).from_pretrained(tmp_path / "back").state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in theirs.float().state_dict().items())


def test_a_key_bias_of_dinov3_is_refused(tmp_path: Path) -> None:
    dinov3(key_bias=True).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="key_bias True"):
        bundle.load(tmp_path)


def meta_file(path: Path, *, rounded: bool = True, gated: bool = False) -> Any:
    """timm's model, and a file of its weights as facebookresearch/dinov3 names and pads them."""
    theirs = eva("DINOv3, gated" if gated else "DINOv3 with biases", dynamic_img_size=True)
    width, tensors = SMALL["embed_dim"], {}
    for name, tensor in theirs.state_dict().items():
        name = name.replace("gamma_", "ls").replace("reg_token", "storage_tokens")
        name = name + ".gamma" if name.endswith(("ls1", "ls2")) else name
        for new, old in (("mlp.w1", "mlp.fc1_g"), ("mlp.w2", "mlp.fc1_x"), ("mlp.w3", "mlp.fc2")) if gated else ():
            name = name.replace(old, new)
        tensors[name] = tensor.clone()
    for i in range(SMALL["depth"]) if not gated else ():
        q, v = (tensors.pop(f"blocks.{i}.attn.{part}_bias") for part in "qv")
        tensors[f"blocks.{i}.attn.qkv.bias"] = torch.cat([q, torch.full((width,), 3.0), v])  # a number that is masked
        tensors[f"blocks.{i}.attn.qkv.bias_mask"] = torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(width)
    periods = Rotation("dinov3-rounded" if rounded else "dinov3", 16, prefix=0).periods()
    tensors |= {"rope_embed.periods": periods.bfloat16() if rounded else periods, "mask_token": torch.ones(1, width)}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("head.")}
    tensors |= {"local_cls_norm.weight": torch.ones(width), "local_cls_norm.bias": torch.ones(width)}
    torch.save(tensors, path)
    theirs.head = torch.nn.Identity()
    theirs.rope.periods = periods
    return theirs.double()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("rounded", [True, False])
def test_meta_s_dinov3(tmp_path: Path, rounded: bool, gated: bool) -> None:
    path = tmp_path / "dinov3.pth"
    theirs = meta_file(path, rounded=rounded, gated=gated)
    ours = bundle.load(path).double()
    assert ours.config.extras.rotary == ("dinov3-rounded" if rounded else "dinov3") and ours.config.heads == 2
    assert any("local_cls_norm" in note for note in ours.record.notes)
    with torch.no_grad():
        for images in (IMAGES, ODD):
            close(ours(images), theirs(images))


def test_meta_s_rounded_periods_are_honoured_and_go_to_no_one_who_computes_them(tmp_path: Path) -> None:
    path = tmp_path / "dinov3.pth"
    theirs = meta_file(path)
    ours = bundle.load(path).double()
    theirs.rope.periods = Rotation("dinov3", 16, prefix=0).periods()
    with torch.no_grad():
        difference = float((ours(IMAGES) - theirs(IMAGES)).abs().max())
    assert difference > 1e-6
    for target, out in (("timm", tmp_path / "x.safetensors"), ("transformers", tmp_path / "x")):
        with pytest.raises(WeightsError, match=r"no vit|means rotary|nothing was written"):
            convert(bundle.read(path), out, target)
    convert(bundle.read(path), tmp_path / "again.safetensors", "dinov3")
    again = bundle.load(tmp_path / "again.safetensors").double()
    with torch.no_grad():
        assert torch.equal(again(ODD), ours(ODD))


def test_periods_of_another_base_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "dinov3.pth"
    meta_file(path)
    tensors = torch.load(path, weights_only=True)
    torch.save({**tensors, "rope_embed.periods": torch.arange(4.0) + 1}, path)
    with pytest.raises(WeightsError, match="periods of rotary positions"):
        bundle.load(path)


def test_without_its_name_a_rotary_model_is_not_guessed(tmp_path: Path) -> None:
    theirs = eva("RoPE-ViT")
    safetensors.torch.save_file(theirs.state_dict(), tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"rotary, relative or no positions.*rope-vit"):
        bundle.load(tmp_path / "x.safetensors", config={"heads": 2})
    mixed = {**theirs.state_dict(), "rope.freqs": torch.zeros(2, 2, 4, 2)}
    safetensors.torch.save_file(mixed, tmp_path / "x.safetensors")
    with pytest.raises(WeightsError, match=r"frequencies of each block.*timm:NAME"):
        bundle.load(tmp_path / "x.safetensors", config={"heads": 2})


def test_meta_s_perception_encoder(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    theirs = eva("PE core", num_classes=12, attn_pool_num_heads=8, ref_feat_shape=(4, 4), dynamic_img_size=True, **EPS)
    theirs.head.bias.data.zero_()
    names = [("blocks.", "transformer.resblocks."), ("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre")]
    names += [("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("attn.qkv.", "attn.in_proj_"), ("norm1", "ln_1")]
    names += [("norm2", "ln_2"), ("attn_pool.norm", "attn_pool.layernorm"), ("attn_pool.latent", "attn_pool.probe")]
    tensors: dict[str, Tensor] = {}
    state = dict(theirs.state_dict())
    for end in ("weight", "bias"):
        both = [state.pop(f"attn_pool.{part}.{end}") for part in ("q", "kv")]
        tensors[f"visual.attn_pool.attn.in_proj_{end}"] = torch.cat(both)
        tensors[f"visual.attn_pool.attn.out_proj.{end}"] = state.pop(f"attn_pool.proj.{end}")
        tensors[f"visual.ln_post.{end}"] = state.pop(f"norm.{end}")
    tensors["visual.proj"] = state.pop("head.weight").T
    tensors["visual.class_embedding"], tensors["visual.positional_embedding"] = (
        state.pop("cls_token")[0, 0],
        state.pop("pos_embed")[0],
    )
    for name, tensor in state.items():
        for old, new in names:
            name = name.replace(old, new)
        if name != "head.bias":
            tensors["visual." + name.replace("attn.proj", "attn.out_proj")] = tensor
    tensors["logit_scale"] = torch.zeros(())
    torch.save({name: tensor.contiguous() for name, tensor in tensors.items()}, tmp_path / "PE.pt")
    # timm's own converter of such files agrees with the names above
    assert timm.models.eva._convert_pe(tensors, theirs).keys() == theirs.state_dict().keys()
    ours = bundle.load(tmp_path / "PE.pt", config={"heads": 2}).double()
    assert ours.config.extras.pool_heads == 8 and ours.config.extras.rotary_grid == 4
    with torch.no_grad():
        for images in (IMAGES, ODD):
            close(ours(images), theirs.double()(images))


def test_a_model_with_a_key_bias_is_not_written_where_there_is_no_place(tmp_path: Path) -> None:
    config = zoo.config(
        "vit-mu/16", positions="rotary", registers=1, layer_scale=1.0, norm_eps=1e-5, classes=0, image=32, heads=2
    )
    model = zoo.build(config)
    weights = bundle.Weights(model.state_dict(), bundle.Record(config=config, preprocess=Preprocess(size=(32, 32))))
    weights.tensors["blocks.0.attn.qkv.bias"][40] = 1.0
    with pytest.raises(WeightsError, match="keys of attention have a bias"):
        convert(weights, tmp_path / "x", "transformers")


TABLE = {"layer_scale": 1.0, "mask_token": True, "positions_on": "class"}


@pytest.mark.parametrize(
    ("made", "to", "sentence"),
    [
        ({"rotary": "eva02", **TABLE}, "dinov2", "a file of dinov2 means rotary='', this model has rotary='eva02'"),
        ({"positions": "rotary", **TABLE}, "dinov2", "dinov2 has no vit with positions rotary"),
        ({"rotary": "pe"}, "torchvision", "a file of torchvision means rotary=''"),
        ({"positions": "none"}, "transformers", "transformers has no vit with positions none"),
        ({"pool": "mean", "class_token": True}, "transformers", "a file of transformers means pool='cls'"),
    ],
    ids=str,
)
def test_tensors_that_fit_another_function_are_not_written(
    tmp_path: Path, made: dict[str, Any], to: str, sentence: str
) -> None:
    """A reader is told what JSON files say, or what its users pass to its code: no more than that may be needed."""
    config = zoo.config("vit-mu/16", classes=0, image=32, heads=2, **made)
    weights = bundle.Weights(
        dict(zoo.build(config).state_dict()), bundle.Record(config=config, preprocess=Preprocess(size=(32, 32)))
    )
    with pytest.raises(WeightsError, match=sentence):
        convert(weights, tmp_path / ("x" if to == "transformers" else "x.safetensors"), to)
    assert not list(tmp_path.iterdir())
