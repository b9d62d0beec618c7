"""Mixup (Zhang 2018) and CutMix (Yun 2019): two images of a batch in one, and their targets in the same shares."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Int64
from torch import Tensor

from vitrail.batches.loader import Batch
from vitrail.config import NOT_NEGATIVE, PROBABILITY, check_ranges


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """The α of each Beta(α, α); 0 is off. Where both are on, one of them is drawn for each batch."""

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    """Where both are on: the probability of CutMix."""
    probability: float = 1.0
    """That a batch is mixed at all."""

    @property
    def on(self) -> bool:
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        check_ranges(self, mixup=NOT_NEGATIVE, cutmix=NOT_NEGATIVE, switch=PROBABILITY, probability=PROBABILITY)


def mix(batch: Batch, mixing: Mixing, generator: torch.Generator, classes: int, partner: Batch | None = None) -> Batch:
    """The batch with float images mixed; its targets become soft, B K. A mixing that is off gives the batch itself.

    `partner` holds the other image of each pair; without it, that is an image half a batch away.
    """
    if not mixing.on or (partner is None and len(batch.images) < 2):
        return batch
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    targets = one_hot(batch.targets, classes)
    if random.random() >= mixing.probability:
        return dataclasses.replace(batch, targets=targets)
    other_images = _half_away(batch.images) if partner is None else partner.images
    other_targets = _half_away(targets) if partner is None else one_hot(partner.targets, classes)
    cut = mixing.mixup == 0 or (mixing.cutmix > 0 and random.random() < mixing.switch)
    alpha = mixing.cutmix if cut else mixing.mixup
    share = float(random.beta(alpha, alpha))
    if cut:
        images, share = _cutmix(batch.images, other_images, share, random)
    else:
        images = share * batch.images + (1 - share) * other_images
    return dataclasses.replace(batch, images=images, targets=share * targets + (1 - share) * other_targets)


def pair(batch: Batch, size: int, repeats: int) -> list[tuple[Batch, Batch]]:
    """Parts of at most `size` images, as `Batch.split` makes them, each with the partners of its images.

    Partners are 1, 2, 4, … places apart, as few as copies of repeated augmentation allow, and swap places. So pairs are the
    same for all sizes of micro-batches, and for all numbers of processes whose shares are multiples of twice that distance.
    """
    parts = []
    for _, group in batch.apart():
        at = torch.from_numpy(partners(len(group), repeats)).to(group.images.device)
        other = dataclasses.replace(group, images=group.images[at], targets=group.targets[at.to(group.targets.device)])
        parts += zip(group.split(size), other.split(size), strict=True)
    return parts


def pairs_block(repeats: int) -> int:
    """Images of a batch that find their partners among themselves: a share of a batch must be a multiple of it."""
    return 2 << (repeats - 1).bit_length()


def partners(count: int, repeats: int) -> Int64[np.ndarray, "N"]:
    """The place of each image's partner: its twin in a block of twice the distance; half away in the rest."""
    apart = pairs_block(repeats) // 2
    whole = count - count % (2 * apart)
    rest = np.roll(np.arange(whole, count), -max(1, (count - whole) // 2))
    return np.concatenate([np.arange(whole) ^ apart, rest])


def one_hot(targets: Int[Tensor, "B"] | Float[Tensor, "B K"], classes: int) -> Float[Tensor, "B K"]:
    """Targets as probabilities of the classes; those that are already stay."""
    return F.one_hot(targets.long(), classes).float() if targets.ndim == 1 else targets.float()


def _half_away(x: Tensor) -> Tensor:
    """So that the copies of repeated augmentation, which are neighbours, do not meet themselves."""
    return x.roll(max(1, len(x) // 2), 0)


def _cutmix(
    images: Float[Tensor, "B C H W"], others: Float[Tensor, "B C H W"], share: float, random: np.random.Generator
) -> tuple[Float[Tensor, "B C H W"], float]:
    """A box of area 1 - share around a uniform centre is the partner's; where the border cuts it, its share is less."""
    height, width = images.shape[-2:]
    box_h, box_w = (side * np.sqrt(1 - share) for side in (height, width))
    y, x = random.uniform(0, height), random.uniform(0, width)
    top, bottom = (int(np.clip(round(edge), 0, height)) for edge in (y - box_h / 2, y + box_h / 2))
    left, right = (int(np.clip(round(edge), 0, width)) for edge in (x - box_w / 2, x + box_w / 2))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
