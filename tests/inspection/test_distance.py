"""Attention distance, entropy and view: closed forms of analytic attention, the authors' definition, and symmetries."""

import math

import numpy as np
import pytest
import torch

from tests.support.models import HYBRID, MAXVIT, VIT, lively, noise
from vitrail.inspection.attention_hooks import Layout, Tap
from vitrail.inspection.heads import _measure, attention_distance, heads
from vitrail.inspection.maps import attention
from vitrail.models.vit import ViTConfig

GRIDS = [((14, 14), (16, 16)), ((14, 10), (16, 16)), ((3, 7), (8, 4))]


def uniform_mean(grid, patch):
    """Mean Euclidean distance of two places of a grid, by counting."""
    h, w = grid
    total = sum(
        (h - abs(dy)) * (w - abs(dx)) * math.hypot(dy * patch[0], dx * patch[1])
        for dy in range(1 - h, h)
        for dx in range(1 - w, w)
    )
    return total / (h * w) ** 2


@pytest.mark.parametrize(("grid", "patch"), GRIDS)
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_uniform_attention(grid, patch, prefix):
    tokens = prefix + grid[0] * grid[1]
    weights = torch.full((2, 3, tokens, tokens), 1 / tokens, dtype=torch.float64)
    # what goes to the prefix counts as no distance, as in the authors' code
    expected = uniform_mean(grid, patch) * (tokens - prefix) / tokens
    found = attention_distance(weights, grid=grid, patch=patch, prefix=prefix)
    assert found.shape == (2, 3) and torch.allclose(found, torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(("grid", "patch"), GRIDS)
def test_identity_has_no_distance_and_one_hot_the_mean_distance_to_that_patch(grid, patch):
    n = grid[0] * grid[1]
    assert attention_distance(torch.eye(n + 1), grid=grid, patch=patch) == 0
    one_hot = torch.zeros(n + 1, n + 1)
    one_hot[:, 1 + grid[1] - 1] = 1  # the upper right corner
    expected = np.mean(
        [math.hypot(y * patch[0], (grid[1] - 1 - x) * patch[1]) for y in range(grid[0]) for x in range(grid[1])]
    )
    assert float(attention_distance(one_hot, grid=grid, patch=patch)) == pytest.approx(expected, rel=1e-6)


def test_a_step_to_the_right_is_a_patch_wide():
    weights = torch.zeros(12, 12)
    for row in range(3):
        for column in range(4):
            weights[row * 4 + column, row * 4 + min(column + 1, 3)] = 1
    assert float(attention_distance(weights, grid=(3, 4), patch=(16, 8), prefix=0)) == pytest.approx(8 * 3 / 4)


def test_all_on_the_class_token_is_no_distance():
    weights = torch.zeros(5, 5)
    weights[:, 0] = 1
    assert attention_distance(weights, grid=(2, 2), patch=(16, 16)) == 0


def tap(q, k, prefix=1, grid=(14, 10)):
    return Tap(0, "", Layout(prefix, grid, (16.0, 16.0)), q[None, None], k[None, None])


def test_a_head_of_equal_keys_sees_all_and_a_sharp_one_sees_one_patch():
    n = 141
    even = _measure(tap(torch.zeros(n, 8), torch.zeros(n, 8)))
    assert float(even.entropy) == pytest.approx(math.log(n), rel=1e-5)
    assert float(even.view) == pytest.approx(1, rel=1e-5)
    assert float(even.prefix) == pytest.approx(1 / n, rel=1e-4)
    assert float(even.distance) == pytest.approx(uniform_mean((14, 10), (16, 16)) * 140 / 141, rel=1e-5)
    sharp = _measure(tap(1e4 * torch.eye(n), torch.eye(n)))
    assert float(sharp.distance) == pytest.approx(0, abs=1e-4) and float(sharp.entropy) == pytest.approx(0, abs=1e-4)
    assert float(sharp.view) == pytest.approx(1 / 140, rel=1e-4) and float(sharp.prefix) == 0
    towards_class = _measure(tap(torch.ones(n, 1), 1e4 * torch.eye(n)[:, :1]))
    assert float(towards_class.prefix) == 1 and float(towards_class.distance) == 0
    assert float(towards_class.view) == 0


@pytest.mark.parametrize("config", [VIT, HYBRID], ids=lambda config: config.family)
def test_one_pass_gives_what_the_maps_give(config, monkeypatch):
    monkeypatch.setattr("vitrail.inspection.attention_hooks.BLOCK_BYTES", 30_000)
    model, images = lively(config), noise(5, 3, *config.image)
    grid = config.grid
    for found, layer in zip(heads(model, images, batch_size=2), attention(model, images), strict=True):
        weights = layer.weights.double()
        patch = (config.image[0] / grid[0], config.image[1] / grid[1])
        expected = attention_distance(weights, grid=grid, patch=patch)
        assert found.distance.shape == (5, 3)
        torch.testing.assert_close(found.distance.double(), expected, rtol=1e-4, atol=1e-4)
        entropy = torch.special.entr(weights[:, :, 1:]).sum(-1).mean(-1)
        torch.testing.assert_close(found.entropy.double(), entropy, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.prefix.double(), weights[:, :, 1:, 0].mean(-1), rtol=1e-4, atol=1e-5)


def test_the_authors_definition_written_out():
    """Every query's distance map, weighted and summed; the mean over queries and images; the class token cut off."""
    weights = noise(4, 2, 1 + 140, 1 + 140).softmax(-1)
    y, x = np.divmod(np.arange(140), 10)
    extents = []
    for image in weights[:, 1, 1:, 1:].numpy():
        maps = [np.sqrt((16.0 * (y - y[i])) ** 2 + (16.0 * (x - x[i])) ** 2) for i in range(140)]
        extents.append(np.mean([(maps[i] * image[i]).sum() for i in range(140)]))
    found = attention_distance(weights, grid=(14, 10), patch=(16, 16))[:, 1]
    assert np.allclose(found, extents, rtol=1e-5)


@pytest.mark.parametrize("axis", [2, 3])
def test_a_mirrored_image_in_a_mirrored_model_has_the_same_distances(axis):
    """Without positions and with symmetric filters, mirroring the image only permutes the tokens."""
    model = lively(ViTConfig(**{**VIT.__dict__, "positions": "none"}))
    with torch.no_grad():
        weight = model.patch_embed.weight
        weight.copy_((weight + weight.flip(axis)) / 2)
    images = noise(2, 3, 224, 160)
    plain, mirrored = heads(model, images), heads(model, images.flip(axis))
    for one, other in zip(plain, mirrored, strict=True):
        torch.testing.assert_close(one.distance, other.distance, rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(one.view, other.view, rtol=1e-4, atol=1e-4)


def test_windows_of_maxvit_have_the_pixels_of_their_stage_and_padding_does_not_count():
    """Equal keys: each window's tokens see those that are no padding alike. 16×16 positions, windows of 3×3."""
    model = lively(MAXVIT)
    for block in (model.blocks[0][0].attn_window, model.blocks[0][0].attn_grid):
        torch.nn.init.zeros_(block.attn.qkv.weight)
        torch.nn.init.zeros_(block.attn.qkv.bias)
        torch.nn.init.zeros_(block.attn.table)
    window, grid, *_ = heads(model, noise(2, 3, 64, 64))
    inside = np.arange(18).reshape(6, 3) < 16  # positions along one axis that are real, by window
    apart = np.arange(18).reshape(3, 6).T < 16
    assert float(window.distance[0, 0]) == pytest.approx(mean_in(inside, 4), rel=1e-4)
    assert float(grid.distance[0, 0]) == pytest.approx(mean_in(apart, 24), rel=1e-4)
    assert float(window.view.max()) <= 9 / 256 + 1e-6


def mean_in(real, step):
    """Mean over real queries of the mean distance to the real tokens of their window."""
    found = []
    for rows in real:
        for columns in real:
            places = [(y * step, x * step) for y in range(3) for x in range(3) if rows[y] and columns[x]]
            found += [np.mean([math.dist(one, other) for other in places]) for one in places]
    return np.mean(found)
