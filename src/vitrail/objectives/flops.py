"""Counts the operations of a training step: forward and backward run on the meta device, nothing is computed."""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from vitrail.batches.loader import Batch
from vitrail.models import cost, zoo
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.classify import Classify
from vitrail.objectives.objective import Objective

_IMAGES = 2


@lru_cache(maxsize=256)
def flops(objective: Objective, config: ModelConfig) -> float:
    """Operations to train on one image. Plain classification goes by the papers' rule, 6 × MACs; what drops tokens,
    keeps a decoder or asks a teacher is counted product by product.
    """
    if isinstance(objective, Classify):
        return float(cost.train_flops(config))
    with torch.device("meta"):
        learner = objective.build(zoo.skeleton(config)).train()
        images = torch.empty(_IMAGES, config.channels, *config.image)
        targets = torch.zeros(_IMAGES, dtype=torch.long)
    batch = Batch(images, targets, ("",) * _IMAGES)
    with FlopCounterMode(display=False) as counter:
        objective(learner, batch, torch.Generator().manual_seed(0)).value.backward()
    return counter.get_total_flops() / _IMAGES


def steps_for(budget: float, objective: Objective, config: ModelConfig, batch_size: int) -> int:
    """How many steps of this batch `budget` operations pay for, one at least."""
    return max(1, round(budget / (flops(objective, config) * batch_size)))
