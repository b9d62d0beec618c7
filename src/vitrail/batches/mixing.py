"""Mixup (Zhang 2018) and CutMix (Yun 2019): two images of a batch in one, and their targets in the same shares."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """The α of each Beta(α, α); 0 is off. Where both are on, one of them is drawn for each batch."""

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    """Where both are on: the probability of CutMix."""
    probability: float = 1.0
    """That a batch is mixed at all."""

    def __post_init__(self) -> None:
        for name in ("mixup", "cutmix"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} = {getattr(self, name)}", allowed="α ≥ 0, where 0 is off")
        for name in ("switch", "probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} = {getattr(self, name)}", allowed="a probability, 0 … 1")


def mix(batch: Batch, mixing: Mixing, generator: torch.Generator, classes: int) -> Batch:
    """The batch with float images mixed; its targets become soft, B K. A mixing that is off gives the batch itself."""
    if mixing.mixup == mixing.cutmix == 0 or len(batch.images) < 2:
        return batch
    random = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    targets = one_hot(batch.targets, classes)
    if random.random() >= mixing.probability:
        return dataclasses.replace(batch, targets=targets)
    cut = mixing.mixup == 0 or (mixing.cutmix > 0 and random.random() < mixing.switch)
    alpha = mixing.cutmix if cut else mixing.mixup
    share = float(random.beta(alpha, alpha))
    images, share = _cutmix(batch.images, share, random) if cut else (_lerp(batch.images, share), share)
    return dataclasses.replace(batch, images=images, targets=_lerp(targets, share))


def one_hot(targets: Int[Tensor, "B"] | Float[Tensor, "B K"], classes: int) -> Float[Tensor, "B K"]:
    """Targets as probabilities of the classes; those that are already stay."""
    return F.one_hot(targets.long(), classes).float() if targets.ndim == 1 else targets.float()


def _partner(x: Tensor) -> Tensor:
    """Half a batch away, so that the copies of repeated augmentation, which are neighbours, do not meet themselves."""
    return x.roll(max(1, len(x) // 2), 0)


def _lerp(x: Tensor, share: float) -> Tensor:
    return share * x + (1 - share) * _partner(x)


def _cutmix(
    images: Float[Tensor, "B C H W"], share: float, random: np.random.Generator
) -> tuple[Float[Tensor, "B C H W"], float]:
    """A box of area 1 - share around a uniform centre is the partner's; where the border cuts it, its share is less."""
    height, width = images.shape[-2:]
    box_h, box_w = (side * np.sqrt(1 - share) for side in (height, width))
    y, x = random.uniform(0, height), random.uniform(0, width)
    top, bottom = (int(np.clip(round(edge), 0, height)) for edge in (y - box_h / 2, y + box_h / 2))
    left, right = (int(np.clip(round(edge), 0, width)) for edge in (x - box_w / 2, x + box_w / 2))
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = _partner(images)[..., top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (height * width)
