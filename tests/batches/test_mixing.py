"""Mixed images and targets agree in their shares; what is off changes nothing."""

import pytest
import torch

from vitrail.batches.draws import generator
from vitrail.batches.loader import Batch
from vitrail.batches.mixing import Mixing, mix, pair, partners
from vitrail.errors import ConfigError


def batch(count: int = 8) -> Batch:
    """Images whose every pixel is their class, so that pixels tell the shares."""
    images = torch.arange(count).float().view(-1, 1, 1, 1).expand(-1, 3, 16, 12).clone()
    return Batch(images, torch.arange(count), tuple("abcdefgh"[:count]))


@pytest.mark.parametrize("mixing", [Mixing(mixup=0.8), Mixing(cutmix=1.0), Mixing(mixup=0.2, cutmix=1.0)])
def test_targets_are_the_shares_of_pixels(mixing: Mixing) -> None:
    for step in range(50):
        mixed = mix(batch(), mixing, generator(0, step), 8)
        means = mixed.images.mean((1, 2, 3))
        expected = (mixed.targets * torch.arange(8.0)).sum(1)
        assert torch.allclose(means, expected, atol=1e-5)
        assert torch.allclose(mixed.targets.sum(1), torch.ones(8))
        assert mixed.keys == batch().keys


def test_cutmix_pixels_come_whole_from_one_of_two_images() -> None:
    for step in range(20):
        mixed = mix(batch(), Mixing(cutmix=1.0), generator(1, step), 8)
        for index in range(8):
            values = set(mixed.images[index].unique().tolist())
            assert values <= {float(index), float((index + 4) % 8)}


def test_mixup_shares_follow_beta() -> None:
    """Beta(0.8, 0.8) has mean 1/2 and variance 1 / (4 · (2·0.8 + 1))."""
    mixed = (mix(batch(), Mixing(mixup=0.8), generator(2, step), 8) for step in range(2000))
    shares = torch.stack([one.targets[0, 0] for one in mixed])
    assert shares.mean() == pytest.approx(0.5, abs=0.03)
    assert shares.var() == pytest.approx(1 / (4 * 2.6), abs=0.01)


def test_switch_and_probability_count() -> None:
    kinds = {"mixup": 0, "cutmix": 0, "none": 0}
    for step in range(600):
        mixed = mix(batch(), Mixing(mixup=1.0, cutmix=1.0, switch=0.25, probability=0.5), generator(3, step), 8)
        first = mixed.images[1].unique()
        kinds["none" if mixed.targets.max(1).values.min() == 1 else "mixup" if len(first) == 1 else "cutmix"] += 1
    assert kinds["none"] == pytest.approx(300, abs=50)
    assert kinds["cutmix"] == pytest.approx(75, abs=30)


def test_the_same_generator_gives_the_same_batch_and_off_gives_the_batch_itself() -> None:
    mixing = Mixing(mixup=0.8, cutmix=1.0)
    one, two = (mix(batch(), mixing, generator(4), 8) for _ in range(2))
    assert torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)
    plain = batch()
    assert mix(plain, Mixing(), generator(4), 8) is plain
    assert mix(batch(1), mixing, generator(4), 8).targets.tolist() == [0]


def test_soft_targets_mix_too() -> None:
    soft = Batch(batch().images, torch.eye(8) * 0.9 + 0.0125, batch().keys)
    mixed = mix(soft, Mixing(mixup=1.0), generator(5), 8)
    assert torch.allclose(mixed.targets.sum(1), torch.ones(8))


@pytest.mark.parametrize("wrong", [{"mixup": -1.0}, {"probability": 1.5}])
def test_numbers_that_mean_nothing_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Mixing(**wrong)


@pytest.mark.parametrize("repeats", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 2, 6, 7, 24, 25, 64])
def test_partners_swap_places_and_are_never_copies(count: int, repeats: int) -> None:
    found, places = partners(count, repeats), torch.arange(count)
    assert sorted(found) == places.tolist()
    apart = {1: 1, 2: 2, 3: 4}[repeats]
    whole = count - count % (2 * apart)
    assert (found[found[:whole]] == places[:whole].numpy()).all()
    assert (found[:whole] // repeats != places[:whole].numpy() // repeats).all()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_the_size_of_parts_does_not_change_what_is_mixed(size: int) -> None:
    mixing = Mixing(mixup=0.2, cutmix=1.0)
    for step in range(20):
        whole, *more = [mix(part, mixing, generator(5, step), 8, other) for part, other in pair(batch(), 8, 1)]
        parts = [mix(part, mixing, generator(5, step), 8, other) for part, other in pair(batch(), size, 1)]
        assert not more and torch.equal(whole.images, torch.cat([part.images for part in parts]))
        assert torch.equal(whole.targets, torch.cat([part.targets for part in parts]))
