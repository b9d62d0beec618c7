"""Rotary positions: against complex numbers, the originals' code, and what makes them relative."""

import math

import pytest
import torch
from torch import Tensor

from vitrail.errors import ConfigError
from vitrail.models import zoo
from vitrail.models.positions import ROTARIES, Rotation, rotate

GRID, HEAD, PREFIX = (3, 5), 16, 2
SMALL = {"width": 32, "depth": 2, "heads": 2, "mlp_width": 48, "classes": 5, "image": 64, "patch": 16}


def by_complex_numbers(x: Tensor, angles: Tensor, halves: bool) -> Tensor:
    """Each pair of features as one complex number, times e^{iφ}."""
    pairs = torch.stack(x.chunk(2, -1), -1) if halves else x.unflatten(-1, (-1, 2))
    turned = torch.view_as_real(
        torch.view_as_complex(pairs.contiguous()) * torch.polar(torch.ones_like(angles), angles)
    )
    return torch.cat([turned[..., 0], turned[..., 1]], -1) if halves else turned.flatten(-2)


@pytest.mark.parametrize("name", ROTARIES)
def test_patches_turn_as_complex_numbers_and_other_tokens_stay(name: str) -> None:
    rotation, halves = Rotation(name, HEAD, prefix=PREFIX, trained_on=7), ROTARIES[name].halves
    x = torch.randn(2, 3, PREFIX + 15, HEAD, generator=torch.Generator().manual_seed(1)).double()
    found = rotate(x, rotation(GRID, x), halves=halves)
    assert torch.equal(found[:, :, :PREFIX], x[:, :, :PREFIX])
    angles = rotation.angles(GRID, x)
    torch.testing.assert_close(
        found[:, :, PREFIX:], by_complex_numbers(x[:, :, PREFIX:], angles, halves), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("name", ROTARIES)
def test_the_product_of_query_and_key_knows_their_distance_alone(name: str) -> None:
    rotation, halves = Rotation(name, HEAD, prefix=0), ROTARIES[name].halves
    q, k = torch.randn(2, 1, 1, 1, HEAD, generator=torch.Generator().manual_seed(3)).double().expand(2, 1, 1, 15, HEAD)
    turns = rotation(GRID, q)
    logits = (
        (rotate(q, turns, halves=halves) @ rotate(k, turns, halves=halves).mT)[0, 0]
        .unflatten(0, GRID)
        .unflatten(2, GRID)
    )
    for one, two in (((0, 0), (1, 2)), ((0, 1), (2, 0))):
        (y, x), (v, u) = one, two
        first = logits[y, x, v, u]
        torch.testing.assert_close(logits[y, x + 2, v, u + 2], first, rtol=0, atol=1e-5)
    assert logits[0, 0, 0, 1] != pytest.approx(float(logits[0, 1, 0, 0]))


def test_dinov3_s_angles_are_the_paper_s() -> None:
    """Centres between -1 and 1 on each axis; periods 100^(k / (d/4)); angle 2π x / period; rows first."""
    found = Rotation("dinov3", HEAD, prefix=0).angles(GRID, torch.zeros(1))
    for row in range(3):
        for column in range(5):
            y, x = (2 * row + 1) / 3 - 1, (2 * column + 1) / 5 - 1
            expected = [2 * math.pi * axis / 100 ** (k / 4) for axis in (y, x) for k in range(4)]
            torch.testing.assert_close(found[row * 5 + column], torch.tensor(expected), rtol=0, atol=1e-5)


def test_meta_s_periods_are_rounded_and_give_other_angles() -> None:
    like = torch.zeros(1)
    exact, rounded = (Rotation(name, 64, prefix=0) for name in ("dinov3", "dinov3-rounded"))
    assert torch.equal(rounded.periods(), exact.periods().bfloat16().float())
    assert 1e-3 < float((rounded.angles(GRID, like) - exact.angles(GRID, like)).abs().max()) < 0.1


def test_some_of_the_patches_turn_as_they_do_among_all() -> None:
    """MAE's encoder sees a quarter of them, in any order."""
    rotation = Rotation("eva02", HEAD, prefix=1)
    like = torch.zeros(1)
    at = torch.tensor([[4, 0, 9], [14, 2, 3]])
    every, some = rotation(GRID, like), rotation(GRID, like, at)
    assert some.shape == (2, 2, 4, HEAD)
    for image in range(2):
        assert torch.equal(some[:, image, 1:], every[:, 0, 1 + at[image]])


def test_a_model_of_rotary_positions_takes_any_size_and_has_no_table() -> None:
    model = zoo.build("vit-b/16", positions="rotary", **SMALL).eval()
    assert not any("positions" in name or "rotation" in name for name in model.state_dict())
    torch.nn.init.normal_(model.head.weight)
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    mirrored = model(images.flip(3))
    assert model(images).shape == (1, 5) and not torch.allclose(model(images), mirrored, atol=1e-4)
    blind = zoo.build("vit-b/16", positions="none", **SMALL).eval()
    blind.load_state_dict(model.state_dict())
    shuffled = images.unflatten(3, (6, 16)).flip(3).flatten(3)  # columns of patches in another order
    torch.testing.assert_close(blind(images), blind(shuffled), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(model(images), model(shuffled), atol=1e-4)


def test_heads_that_no_two_axes_divide_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"width = 30 .*multiple of 20"):
        zoo.config("vit-b/16", positions="rotary", width=30, heads=5)
