"""Draws are functions of their counters: published values, independence, uniformity."""

import numpy as np
import pytest

from vitrail.batches.draws import Draws, generator, hash64, seed_of, uniform


def test_the_mixing_function_is_splitmix64s() -> None:
    """hash64(c) = finalise(finalise(c + γ)) from state 0; the inner value of c = 0 is splitmix64's published first output."""
    first = 0xE220A8397B1DCDAF  # of seed 0 (Vigna's splitmix64.c)
    mask = (1 << 64) - 1
    x = first
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
    assert int(hash64(0)[0]) == x ^ (x >> 31)


def test_a_draw_depends_on_its_own_counters_only() -> None:
    samples = np.arange(1000)
    whole = uniform(7, 3, samples, "flip")
    one_by_one = [uniform(7, 3, np.array([sample]), "flip")[0] for sample in samples[::97]]
    assert whole[::97].tolist() == one_by_one
    mixed_epochs = uniform(7, np.full(1000, 3), samples[::-1].copy(), "flip")
    assert (mixed_epochs[::-1] == whole).all()


@pytest.mark.parametrize(
    "other", [(8, 3, "flip"), (7, 4, "flip"), (7, 3, "crop.x"), (-1, 3, "flip"), (2**63, 3, "flip")]
)
def test_every_counter_matters(other: tuple[int, int, str]) -> None:
    samples = np.arange(20_000)
    seed, epoch, name = other
    a, b = uniform(7, 3, samples, "flip"), uniform(seed, epoch, samples, name)
    assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert not (a == b).any()


def test_draws_are_uniform() -> None:
    draws = uniform(0, 0, np.arange(100_000), "x")
    counts = np.histogram(draws, 100, (0, 1))[0]
    chi2 = ((counts - 1000) ** 2 / 1000).sum()
    assert 60 < chi2 < 150  # 99 degrees of freedom
    assert draws.min() >= 0 and draws.max() < 1


def test_a_batchs_draws_are_the_same_numbers() -> None:
    epochs, samples = np.array([0, 0, 1]), np.array([5, 9, 5])
    draws = Draws(3, epochs, samples)
    assert (draws("erase") == uniform(3, epochs, samples, "erase")).all()
    assert draws.of(2)("erase") == draws("erase")[2]


def test_seeds_and_generators_repeat() -> None:
    assert seed_of(1, 2, 3) != seed_of(1, 3, 2)
    assert 0 <= seed_of(1, 2) < 2**63
    assert generator(1, 2).initial_seed() == generator(1, 2).initial_seed() != generator(1, 3).initial_seed()
