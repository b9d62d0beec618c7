"""Our block and attention against torch's own encoder layer, and closed forms for the parts torch does not have."""

import math

import pytest
import torch
from torch import nn

from vitrail.models import zoo
from vitrail.models.extras import Extras
from vitrail.models.initialise import initialise_layers
from vitrail.models.layers import Attention, Block
from vitrail.models.positions import sincos
from vitrail.models.resize import resize_table

pytestmark = pytest.mark.oracle


def copied(block: Block, heads: int) -> nn.TransformerEncoderLayer:
    """torch's pre-norm encoder layer with the block's weights."""
    width, hidden = block.mlp.fc2.out_features, block.mlp.fc1.out_features
    theirs = nn.TransformerEncoderLayer(
        width, heads, hidden, dropout=0.0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).double()
    pairs = {
        "self_attn.in_proj_weight": block.attn.qkv.weight,
        "self_attn.in_proj_bias": block.attn.qkv.bias,
        "self_attn.out_proj.weight": block.attn.proj.weight,
        "self_attn.out_proj.bias": block.attn.proj.bias,
        "linear1.weight": block.mlp.fc1.weight,
        "linear1.bias": block.mlp.fc1.bias,
        "linear2.weight": block.mlp.fc2.weight,
        "linear2.bias": block.mlp.fc2.bias,
        "norm1.weight": block.norm1.weight,
        "norm1.bias": block.norm1.bias,
        "norm2.weight": block.norm2.weight,
        "norm2.bias": block.norm2.bias,
    }
    theirs.load_state_dict({name: tensor.detach() for name, tensor in pairs.items()})
    return theirs


def randomised(module: nn.Module) -> nn.Module:
    """No parameter at zero or one, in float64."""
    module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module


@pytest.mark.parametrize("heads", [1, 3, 8])
def test_block_equals_torchs_encoder_layer_in_float64(heads: int) -> None:
    block = randomised(Block(48, heads, 100))
    x = torch.randn(2, 17, 48, dtype=torch.float64, requires_grad=True)
    theirs = copied(block, heads)
    assert torch.allclose(block(x), theirs(x), rtol=0, atol=1e-12)
    ours_grad, their_grad = (torch.autograd.grad(f(x).square().sum(), x)[0] for f in (block, theirs))
    assert torch.allclose(ours_grad, their_grad, rtol=1e-10, atol=1e-10)


def test_relative_attention_is_shaws_formula_written_out() -> None:
    """logit(i, j) = q_i · (k_j + e_{i-j}) / √d, as two loops."""
    attention = randomised(Attention(12, 3, relative_tokens=5))
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = attention.project(x)
    table = attention.relative.table[0]
    out = torch.zeros_like(q)
    for i in range(5):
        logits = torch.stack([(q[:, :, i] * (k[:, :, j] + table[i - j + 4])).sum(-1) for j in range(5)], dim=-1)
        out[:, :, i] = ((logits / math.sqrt(4)).softmax(-1)[..., None] * v).sum(2)
    assert torch.allclose(attention(x), attention.proj(out.transpose(1, 2).flatten(2)), rtol=0, atol=1e-12)


def test_patch_embedding_is_a_convolution_with_stride_equal_to_its_kernel() -> None:
    model = zoo.build("vit-mu/16", patch=(4, 6), image=(12, 24)).double()
    images = torch.randn(2, 3, 12, 24, dtype=torch.float64)
    theirs = nn.functional.conv2d(images, model.patch_embed.weight, model.patch_embed.bias, stride=(4, 6))
    assert torch.allclose(model.patch_embed(images), theirs.flatten(2).transpose(1, 2), rtol=0, atol=1e-12)


def test_permuting_patches_without_positions_permutes_the_tokens() -> None:
    """Equation 1 without E_pos: a bag of patches."""
    model = zoo.build("vit-mu/16", positions="none", image=64).double()
    images = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    tokens = model.features(images).patches
    rolled = model.features(images.roll(16, dims=3)).patches.unflatten(1, (4, 4)).roll(-1, dims=2).flatten(1, 2)
    assert torch.allclose(tokens, rolled, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["sincos", "sincos-mae"])
def test_sincos_table_written_out(kind: str) -> None:
    """Entry by entry: [sin x, cos x, sin y, cos y], ω_k = 10000^(-k / (D/4 - 1)) of big_vision, k / (D/4) of MAE."""
    table = sincos((3, 5), 16, kind)[0]
    for row in range(3):
        for column in range(5):
            for k in range(4):
                omega = 10_000 ** -(k / (3 if kind == "sincos" else 4))
                expected = [
                    math.sin(column * omega),
                    math.cos(column * omega),
                    math.sin(row * omega),
                    math.cos(row * omega),
                ]
                assert table[row * 5 + column, k::4].tolist() == pytest.approx(expected, abs=1e-6)


def test_sincos_of_mae_equals_the_golden_tables(golden) -> None:
    import json

    import numpy as np

    folder = golden / "mae_sincos/tables"
    tables = np.load(folder / "io.npz")
    assert len(tables.files) == 4, json.loads((folder / "meta.json").read_text())["io"]
    for name in tables.files:
        table = torch.from_numpy(tables[name])
        side = math.isqrt(len(table))
        ours = sincos((side, side), table.shape[1], "sincos-mae")[0]
        assert torch.allclose(ours.double(), table[len(table) - side * side :], rtol=0, atol=1e-6), name


def test_bilinear_resize_has_aligned_corners() -> None:
    """A plane stays the plane: corners exact, everything between linear, on oblong grids too."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 3), torch.linspace(0, 1, 4), indexing="ij")
    table = torch.stack([y, x], dim=-1).flatten(0, 1)[None]
    y, x = torch.meshgrid(torch.linspace(0, 1, 7), torch.linspace(0, 1, 5), indexing="ij")
    assert torch.allclose(
        resize_table(table, (3, 4), (7, 5)), torch.stack([y, x], dim=-1).flatten(0, 1)[None], atol=1e-6
    )


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "bicubic-antialias", "dinov2"])
def test_a_constant_table_stays_constant_at_any_grid(how: str) -> None:
    assert torch.allclose(resize_table(torch.full((1, 15, 4), 2.5), (3, 5), (4, 9), how), torch.tensor(2.5))


def test_initialisation_of_layers_reaches_every_parameter() -> None:
    block = Block(32, 2, 64, Extras(layer_scale=0.1, qk_norm=True), relative_tokens=9)
    for parameter in block.parameters():
        parameter.data.fill_(torch.nan)
    initialise_layers(block, torch.Generator().manual_seed(0))
    assert all(torch.isfinite(parameter).all() for parameter in block.parameters())
