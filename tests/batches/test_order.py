"""The order is a permutation in every epoch, whatever part of it is asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.batches.order import Order
from vitrail.errors import DataError


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 3000), st.integers(0, 2**40), st.integers(0, 50))
def test_every_epoch_holds_every_sample_once(count: int, seed: int, epoch: int) -> None:
    epochs, samples = Order(count, seed).at(np.arange(epoch * count, (epoch + 1) * count))
    assert (epochs == epoch).all()
    assert (np.sort(samples) == np.arange(count)).all()


def test_parts_of_the_order_are_parts_of_the_whole() -> None:
    order = Order(1437, 5)
    epochs, samples = order.at(np.arange(20_000))
    for first, stop in [(0, 1), (4095, 4097), (1430, 1440), (5000, 15_000), (19_999, 20_000)]:
        part = Order(1437, 5).between(first, stop)
        assert (part[0] == epochs[first:stop]).all() and (part[1] == samples[first:stop]).all()


def test_epochs_and_seeds_differ() -> None:
    one, two = (Order(1000, seed).at(np.arange(2000))[1] for seed in (0, 1))
    assert (one[:1000] == one[1000:]).mean() < 0.01
    assert (one == two).mean() < 0.01


def test_each_sample_is_equally_likely_at_each_position() -> None:
    """Over 20,000 epochs of 12 samples: 144 cells, each expected 1,667 times."""
    _, samples = Order(12, 3).at(np.arange(12 * 20_000))
    counts = np.zeros((12, 12))
    np.add.at(counts, (np.tile(np.arange(12), 20_000), samples), 1)
    expected = 20_000 / 12
    assert ((counts - expected) ** 2 / expected).sum() < 190  # 121 degrees of freedom, p ≈ 1e-4


def test_neighbours_in_the_set_are_not_neighbours_in_the_order() -> None:
    _, samples = Order(60_000, 0).at(np.arange(60_000))
    assert abs(np.corrcoef(samples[:-1], samples[1:])[0, 1]) < 0.02


@pytest.mark.parametrize("count", [1, 2, 3, 5, 1_281_167, 10**9])
def test_any_size_at_once(count: int) -> None:
    _, samples = Order(count, 0).at(np.arange(5 * count - 3, 5 * count + 3))
    assert ((samples >= 0) & (samples < count)).all()


def test_nothing_to_order_is_said() -> None:
    with pytest.raises(DataError, match="no images"):
        Order(0, 0)
