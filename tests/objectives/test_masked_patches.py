"""Masked patch prediction: the rates of the paper's appendix B.1.2, and labels worked out by hand."""

import pytest
import torch
import torch.nn.functional as F

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.mae import masking
from vitrail.models.vit import ViTConfig
from vitrail.objectives.masked_patches import MaskedPatches, colour_classes, corrupt
from vitrail.objectives.objective import Task

pytestmark = pytest.mark.oracle

CONFIG = ViTConfig(width=32, depth=1, heads=2, mlp_width=32, image=(8, 12), patch=(4, 4), classes=0, pool="mean")
KINDS = ("mean-colour", "downsized", "pixels")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(images: torch.Tensor) -> Batch:
    return Batch(images, torch.zeros(len(images), dtype=torch.long), ("",) * len(images))


def test_half_are_chosen_and_of_those_80_10_10() -> None:
    images, patches = 400, 196
    chosen = masking(torch.rand(images, patches, generator=draws()), 0.5).hidden
    assert chosen.shape[1] == 98
    blank, source = corrupt(chosen, patches, 0.8, 0.1, draws(1))
    own = torch.arange(images * patches).view(images, patches)
    swapped = source != own
    picked = torch.zeros_like(blank).scatter(1, chosen, True)
    assert not (blank & ~picked).any() and not (swapped & ~picked).any() and not (blank & swapped).any()
    total = picked.sum().item()
    sigma = (0.8 * 0.2 / total) ** 0.5
    assert blank.sum().item() / total == pytest.approx(0.8, abs=4 * sigma)
    assert swapped.sum().item() / total == pytest.approx(0.1, abs=4 * sigma)
    # a swapped embedding comes from anywhere else in the batch, uniformly
    distance = (source - own)[swapped] % (images * patches)
    assert distance.min() > 0 and distance.double().mean().item() / (images * patches) == pytest.approx(0.5, abs=0.02)


def test_mean_colours_become_512_classes_of_3_bits_a_channel() -> None:
    picture = torch.zeros(1, 3, 4, 8)
    picture[0, :, :, 4:] = torch.tensor([1.0, 0.5, 0.12])[:, None, None]
    assert colour_classes(picture, (4, 4), 1).flatten().tolist() == [0, 7 * 64 + 4 * 8 + 0]
    picture[0, 0, :2, :4] = 1.0  # half of the first patch: the mean decides
    assert colour_classes(picture, (4, 4), 1).flatten().tolist()[0] == 4 * 64
    grey = torch.linspace(0, 1, 16).view(1, 1, 4, 4)
    assert colour_classes(grey, (4, 4), 1).item() == 4 and colour_classes(grey, (4, 4), 4).flatten().tolist() == [
        min(7, int(value * 8)) for value in grey.flatten().tolist()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_that_of_the_corrupted_patches_alone(kind: str) -> None:
    objective, preprocess = MaskedPatches(target=kind, swapped=0.0, blank=1.0), Preprocess(size=(8, 12))
    learner = objective.build(zoo.build(CONFIG), draws(), Task(preprocess=preprocess))
    images = torch.rand(5, 3, 8, 12) * 2 - 1
    loss = objective(learner, batch(images), draws(3))
    chosen = masking(torch.rand(5, 6, generator=draws(3)), 0.5).hidden
    blank = torch.zeros(5, 6, dtype=torch.bool).scatter(1, chosen, True)
    answers = learner(images, blank)[blank]
    if kind == "pixels":
        patches = images.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(5, 6, 48)
        expected = (answers - patches[blank]).square().mean()
    else:
        cells = 4 if kind == "downsized" else 1
        labels = colour_classes((images + 1) / 2, (4, 4), cells)[blank]
        expected = F.cross_entropy(answers.reshape(-1, 512), labels.flatten())
    assert float(loss.value.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_it_learns_and_every_parameter_gets_a_gradient(kind: str) -> None:
    objective = MaskedPatches(target=kind)
    learner = objective.build(zoo.build(CONFIG), draws(), Task(preprocess=Preprocess(size=(8, 12))))
    images = (torch.arange(4).view(4, 1, 1, 1) / 2 - 1).expand(4, 3, 8, 12).clone()  # four plain colours
    optimizer = torch.optim.Adam(learner.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        loss = objective(learner, batch(images), draws(step))
        loss.value.backward()
        if step == 0:
            assert [name for name, p in learner.named_parameters() if p.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.value.detach()))
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert objective.model_of(learner) is learner.backbone


def test_what_cannot_be_asked_for() -> None:
    for changes, what in (({"mask_ratio": 1.0}, "mask_ratio = 1.0"), ({"blank": 0.95}, "at most 1 together")):
        with pytest.raises(ConfigError, match=what):
            MaskedPatches(**changes)
    with pytest.raises(ConfigError, match="colour classes of 5 channels"):
        MaskedPatches().build(zoo.build(CONFIG, channels=5), draws())
