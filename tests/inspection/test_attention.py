"""Attention maps: exact, the published implementation's to its own noise; the model's answers stay the same bits."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.models import HYBRID, MASKED, MAXVIT, RESNET, VIT, lively, noise
from vitrail.errors import ConfigError, DoesNotApply
from vitrail.inspection.attention_hooks import watch
from vitrail.inspection.maps import attention
from vitrail.models import zoo
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import build

VARIANTS = [
    {},
    {"qk_norm": True},
    {"positions": "relative"},
    {"positions": "rotary", "registers": 4},
    {"rotary": "pe", "rotary_grid": 5, "pre_norm": True, "inner_norm": "both"},
    {"registers": 4},
    {"pool": "mean", "positions": "sincos"},
    {"pool": "map", "layer_scale": 0.3, "activation": "swiglu"},
]


def by_hand(model, images):
    """Softmax of q kᵀ / √d of every block, in float64, from the tokens that enter it."""
    tokens, found = model.pre_norm(model.embed(images)), []
    turns = model.rotation(model.patch_embed.grid(images), tokens) if model.rotation is not None else None
    for block in model.blocks:
        attn, x = block.attn, block.norm1(tokens)
        q, k, _ = attn.qkv(x).reshape(*x.shape[:2], 3, attn.heads, -1).permute(2, 0, 3, 1, 4)
        q, k = attn.turn(attn.q_norm(q), turns), attn.turn(attn.k_norm(k), turns)
        logits = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
        if attn.relative is not None:
            logits = logits + attn.relative(q)
        found.append(logits.softmax(-1))
        tokens = block(tokens, turns)
    return found


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_maps_are_a_float64_reference_to_1e_5(changes):
    model, images = lively(zoo.change(VIT, **changes)), noise(2, 3, 224, 160)
    maps = attention(model, images)
    exact = by_hand(model.double(), images.double())
    assert len(maps) == 3
    for found, true in zip(maps, exact, strict=True):
        assert found.weights.shape == true.shape
        assert (found.weights - true).abs().max() < 1e-5
        assert torch.allclose(found.weights.sum(-1), torch.ones(()), atol=1e-5)


def test_maps_are_those_of_transformers(golden):
    folder = golden / "hf_vit" / "classification"
    stored, arrays = load_file(folder / "model.safetensors"), np.load(folder / "io.npz")
    config = ViTConfig(
        width=48,
        depth=3,
        heads=4,
        mlp_width=96,
        patch=(8, 8),
        image=(32, 32),
        classes=11,
        extras=Extras(norm_eps=1e-12),
    )
    model = build(config)
    model.load_state_dict(ours(stored, config.depth))
    maps = attention(model.eval(), torch.from_numpy(arrays["input"]))
    for layer, found in enumerate(maps):
        assert np.abs(found.weights.numpy() - arrays[f"attn_{layer}"]).max() < 1e-5


def ours(stored, depth):
    """transformers' ViT by our names."""
    state = {
        "cls_token": stored["vit.embeddings.cls_token"],
        "positions.table": stored["vit.embeddings.position_embeddings"],
    }
    pairs = {"patch_embed": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm", "head": "classifier"}
    for layer in range(depth):
        theirs, mine = f"vit.encoder.layer.{layer}.", f"blocks.{layer}."
        for kind in ("weight", "bias"):
            parts = [stored[f"{theirs}attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
            state[f"{mine}attn.qkv.{kind}"] = torch.cat(parts)
        names = {"norm1": "layernorm_before", "norm2": "layernorm_after", "attn.proj": "attention.output.dense"}
        names |= {"mlp.fc1": "intermediate.dense", "mlp.fc2": "output.dense"}
        pairs |= {mine + name: theirs + their for name, their in names.items()}
    return state | {
        f"{mine}.{kind}": stored[f"{their}.{kind}"] for mine, their in pairs.items() for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("config", [VIT, HYBRID, MAXVIT, MASKED], ids=lambda config: config.family)
def test_answers_are_the_same_bits_with_and_without(config):
    model, images = lively(config).train(), noise(2, 3, *config.image)
    model.eval()
    with torch.no_grad():
        before = model(images)
    model.train()
    taps = []
    assert torch.equal(watch(model, images, taps.append), before)
    assert taps and model.training
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_chosen_layers_heads_and_rows_are_those_of_the_whole():
    model, images = lively(VIT), noise(1, 3, 224, 160)
    whole = attention(model, images)
    some = attention(model, images, layers=[-1, 1], heads=[3], queries=[0, 5, 140])
    assert [found.layer for found in some] == [1, 3]
    for found in some:
        assert found.heads == (3,) and found.queries == (0, 5, 140)
        torch.testing.assert_close(found.weights, whole[found.layer - 1].weights[:, 2:3][:, :, [0, 5, 140]])
    assert some[0].patches.shape == (1, 1, 3, 14, 10)


def test_rows_are_streamed_in_blocks_that_together_are_the_whole(monkeypatch):
    monkeypatch.setattr("vitrail.inspection.attention_hooks.BLOCK_BYTES", 20_000)
    model, images, blocks = lively(VIT), noise(1, 3, 224, 160), []
    watch(model, images, lambda tap: blocks.extend(tap.stream()), layers=[2])
    assert len(blocks) > 5 and max(weights.numel() * 4 for _, weights in blocks) <= 20_000
    whole = attention(model, images, layers=[2])[0].weights
    torch.testing.assert_close(torch.cat([weights for _, weights in blocks], dim=2), whole)


def test_windows_of_maxvit_attend_as_the_block_says():
    """Recomputed from the attention's own output: weights times v, projected, is what the module gave."""
    model, images = lively(MAXVIT), noise(2, 3, 64, 64)
    maps = attention(model, images)
    assert [found.name for found in maps] == [
        f"blocks.{stage}.0.attn_{kind}" for stage in (0, 1) for kind in ("window", "grid")
    ]
    for found, attn in zip(
        maps,
        [part.attn for stage in model.blocks for part in (stage[0].attn_window, stage[0].attn_grid)],
        strict=True,
    ):
        seen = {}
        hook = attn.register_forward_hook(lambda _, entered, left, seen=seen: seen.update(x=entered[0], left=left))
        with torch.no_grad():
            model(images)
            v = attn.qkv(seen["x"]).unflatten(2, (3, attn.heads, -1))[:, :, 2].transpose(1, 2)
            again = attn.proj((found.weights @ v).transpose(1, 2).flatten(2))
        hook.remove()
        torch.testing.assert_close(again, seen["left"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layers": [4]}, "layer 4 of a model with 3 layers; allowed: 1 to 3"),
        ({"layers": [-4]}, "layer -4"),
        ({"layers": [0]}, "layer 0"),
        ({"heads": [5]}, "head 5 of a model with 3 heads; allowed: 1 to 3"),
        ({"queries": [141]}, "token 141 of a model with 141 tokens"),
    ],
)
def test_what_is_not_there_is_a_clear_error(asked, message):
    with pytest.raises(ConfigError, match=message):
        attention(lively(VIT), noise(1, 3, 224, 160), **asked)


def test_a_model_without_attention_and_no_images_are_clear_errors():
    with pytest.raises(DoesNotApply, match="a ResNet has no attention"):
        attention(lively(RESNET), noise(1, 3, 64, 48))
    with pytest.raises(ConfigError, match="there are no images to look at"):
        attention(lively(VIT), noise(0, 3, 224, 160))


def test_maps_that_would_not_fit_are_refused_before_they_are_made(monkeypatch):
    from vitrail.machine import Memory

    monkeypatch.setattr("vitrail.machine.memory", lambda: Memory(1 << 20, 100_000))
    with pytest.raises(ConfigError, match="name layers, heads or queries"):
        attention(lively(VIT), noise(1, 3, 224, 160))
    assert len(attention(lively(VIT), noise(1, 3, 224, 160), queries=[0])) == 3


def test_hooks_are_gone_after_an_error():
    model = lively(VIT)
    with pytest.raises(ValueError, match="does not divide"):
        attention(model, noise(1, 3, 225, 160))
    with pytest.raises(RuntimeError):
        watch(model, noise(1, 3, 224, 160), lambda tap: (_ for _ in ()).throw(RuntimeError()))
    assert not any(module._forward_hooks for module in model.modules())
