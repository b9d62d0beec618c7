"""Learning from a teacher."""

from dataclasses import fields, replace
from typing import Any

from vitrail.models.deit import DeiTConfig
from vitrail.models.zoo import ModelConfig
from vitrail.objectives.distill import Distill
from vitrail.recipes.mae import as_vit
from vitrail.recipes.published import deit
from vitrail.recipes.request import Given
from vitrail.recipes.small import digits
from vitrail.training.run import Run


def deit_distilled(given: Given) -> Run:
    """DeiT with its distillation token (arXiv 2012.12877): hard labels of a RegNetY-16GF, half of the loss each.

    command    vitrail train IMAGENET --recipe deit_distilled --objective.teacher FILE_OR_RUN
    variants   hard or soft (λ = 0.1, τ = 3)
    published  ImageNet top-1 of b/16 after 300 epochs 83.4, 81.8 without the teacher
    differs    as the recipe deit; the teacher is any that Vitrail loads
    """
    base = deit(given)
    return replace(base, model=add_distillation_token(base.model), objective=_objective(given, smoothing=0.1))


def distill_small(given: Given) -> Run:
    """A tiny student on small pictures, with a distillation token.

    command    vitrail train digits --recipe distill_small --objective.teacher runs/digits-1
    variants   hard, soft
    """
    base = digits(given)
    return replace(
        base, model=add_distillation_token(base.model), objective=_objective(given, smoothing=0.0), length="50 epochs"
    )


def add_distillation_token(model: ModelConfig) -> DeiTConfig:
    """The ViT with a second class token and head."""
    vit = as_vit(model)
    values: dict[str, Any] = {field.name: getattr(vit, field.name) for field in fields(vit)}
    extras = replace(vit.extras, class_token=None, registers=1, pre_logits=0)
    return DeiTConfig(**values | {"pool": "cls", "extras": extras})


def _objective(given: Given, smoothing: float) -> Distill:
    if given.variant == "soft":
        return Distill(kind="soft", weight=0.1, label_smoothing=smoothing)
    return Distill(label_smoothing=smoothing)
