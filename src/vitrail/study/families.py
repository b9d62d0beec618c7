"""ViT, ResNet and hybrid at any size, matched in what they cost: the models of the paper's comparisons, at small scale.

Costs are counted (`models.cost`), never assumed: each family has a ladder of models, and the nearest rung is taken.
"""

import functools
import itertools
import math
from collections.abc import Iterator
from typing import Any

from vitrail.models import cost, zoo
from vitrail.models.hybrid import HybridConfig
from vitrail.models.resnet import ResNetConfig
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.classify import Classify
from vitrail.recipes.request import Given, fit_side
from vitrail.study.cells import in_cell
from vitrail.study.questions import Trainings
from vitrail.training.run import Optim, Run

FAMILIES = ("vit", "resnet", "hybrid")
TOKENS = 7
"""Patches to a side that a ViT should have, about: 49 tokens, as ViT-B/32 at 224 pixels."""
BODIES = ((32, 2), (32, 3), (32, 4), (48, 3), (64, 3), (64, 4), (96, 4), (96, 6), (128, 6), (128, 8), (192, 6), (192, 8), (192, 12),
          (256, 8), (256, 12), (384, 12), (512, 12), (768, 12), (1024, 24))  # fmt: skip
"""Width and depth of the ViTs of the ladder."""


def model_of(name: str, given: Given, side: int, macs: float) -> ModelConfig:
    """A model of the zoo by its name; or of a family, the one whose cost is nearest to `macs` multiply-accumulates.

    `vit*4` is a ViT of four times the cost.
    """
    family, _, factor = name.partition("*")
    channels = given.shape[2] if given.shape else given.channels
    facts = {"channels": channels, "classes": given.classes, "image": (side, side)}
    if family not in FAMILIES:
        config = zoo.config(name)
        return zoo.change(config, **{**facts, "image": (fit_side(side, config),) * 2})
    return match_cost(family, side, channels, given.classes, macs * float(factor or 1))


@functools.lru_cache(maxsize=256)
def match_cost(family: str, side: int, channels: int, classes: int, macs: float) -> ModelConfig:
    """The model of the family's ladder whose cost is nearest."""
    found: dict[float, ModelConfig] = {}
    for rung in climb(family, side):
        model = zoo.change(rung, channels=channels, classes=classes)
        apart = math.log(cost.macs(model) / macs)
        found.setdefault(abs(apart), model)
        if apart > math.log(4):  # what follows costs more still
            break
    return found[min(found)]


def climb(family: str, side: int) -> Iterator[ModelConfig]:
    """Models of a family for images of side × side pixels, from small to large."""
    image = (side, side)
    if family == "resnet":
        stages = min(4, max(1, int(math.log2(max(1.0, side / 12))) + 1))
        for factor, depth in itertools.product((1, 2, 4), (1, 2, 3, 4, 6)):
            widths = tuple(128 * factor * 2**stage for stage in range(stages))
            yield ResNetConfig(depths=(depth,) * stages, widths=widths, root_width=32 * factor, image=image)
    for width, depth in BODIES if family != "resnet" else ():
        body: Any = {
            "width": width,
            "depth": depth,
            "heads": max(1, width // 32),
            "mlp_width": 4 * width,
            "pool": "mean",
        }
        if family == "vit":
            yield ViTConfig(patch=(patch_of(side),) * 2, image=image, **body)
        else:  # patches of what a ResNet's root makes, as R+ViT-Ti/16
            for root in (32, 64):
                patch = max(1, patch_of(side) // 4)
                yield HybridConfig(depths=(), widths=(), root_width=root, patch=(patch, patch), image=image, **body)


def patch_of(side: int) -> int:
    """The patch that divides the side into TOKENS patches, as nearly as it can; of two pixels at least."""
    divisors = [patch for patch in range(2, side + 1) if side % patch == 0] or [side]
    return min(divisors, key=lambda patch: abs(math.log(side / patch / TOKENS)))


def side_of(given: Given) -> int:
    """The side of the images of a study: their own; 32 for smaller ones, 64 where they differ, as a multiple of 4."""
    own = max(given.shape[:2]) if given.shape else 64
    return 32 if own < 24 else round(own / 4) * 4


def plain_run(asked: Trainings, given: Given, model: ModelConfig, seed: int) -> Run:
    """Fixed settings without regularisation but a weight decay, as the paper trains for its Figure 4."""
    run = Run(
        model=model,
        preprocess=given.preprocess(model.image),
        objective=Classify(),
        optim=Optim(lr=asked.lr, weight_decay=0.03, warmup="10 %"),
        batch_size=asked.batch,
        length=f"{asked.steps} steps",
    )
    return in_cell(asked, run, seed)


def regularise(model: ModelConfig, strength: str) -> dict[str, float]:
    """Weight decay, dropout and label smoothing of a run, as far as the family has them: none, light or strong."""
    decay, drop, smooth = {"none": (0.0, 0.0, 0.0), "light": (0.05, 0.1, 0.1), "strong": (0.3, 0.2, 0.2)}[strength]
    dropout = {"model.dropout": drop} if hasattr(model, "dropout") else {}
    return {"optim.weight_decay": decay, "objective.label_smoothing": smooth, **dropout}
