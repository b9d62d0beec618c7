"""Recipes: ways to train, as functions from what is given to a Run; their docstrings say command and published result.

`--recipe NAME` takes one, `--recipe NAME:VARIANT` a row of its table, and every field can be overridden beside it.
"""

import inspect
from collections.abc import Callable
from dataclasses import replace

from vitrail.errors import ConfigError, suggest
from vitrail.recipes.distillation import deit_distilled, distill_small
from vitrail.recipes.mae import mae, mae_finetune, mae_partial, mae_probe, mae_small
from vitrail.recipes.paper import finetune, finetune_small, linear_probe, vit_imagenet, vit_imagenet21k, vit_jft
from vitrail.recipes.pretraining import masked_patches, moco, pretrain_small, simmim
from vitrail.recipes.published import augreg, big_vision_s16, deit, deit3, torchvision_b16
from vitrail.recipes.request import Given, Pretrained, read_pretrained, request_for
from vitrail.recipes.small import digits, fashion_mnist_cpu, fashion_mnist_gpu, folder
from vitrail.training.run import Run

__all__ = ["RECIPES", "Given", "Pretrained", "about", "choose", "read_pretrained", "recipe", "request_for"]

RECIPES: dict[str, Callable[[Given], Run]] = {
    "digits": digits,
    "fashion_mnist_cpu": fashion_mnist_cpu,
    "fashion_mnist_gpu": fashion_mnist_gpu,
    "folder": folder,
    "finetune": finetune,
    "finetune_small": finetune_small,
    "linear_probe": linear_probe,
    "vit_jft": vit_jft,
    "vit_imagenet21k": vit_imagenet21k,
    "vit_imagenet": vit_imagenet,
    "augreg": augreg,
    "big_vision_s16": big_vision_s16,
    "deit": deit,
    "deit3": deit3,
    "torchvision_b16": torchvision_b16,
    "mae": mae,
    "mae_small": mae_small,
    "mae_finetune": mae_finetune,
    "mae_partial": mae_partial,
    "mae_probe": mae_probe,
    "masked_patches": masked_patches,
    "simmim": simmim,
    "moco": moco,
    "pretrain_small": pretrain_small,
    "deit_distilled": deit_distilled,
    "distill_small": distill_small,
}


def recipe(name: str, given: Given | None = None) -> Run:
    """The Run of a recipe, by name or "name:variant". Raises ConfigError with the nearest name."""
    stem, _, variant = name.partition(":")
    if stem not in RECIPES:
        raise ConfigError(f"there is no recipe {stem!r}", allowed=", ".join(RECIPES), next_step=suggest(stem, RECIPES))
    if variant and "\nvariants " not in about(stem):
        raise ConfigError(f"the recipe {stem} has no variants, and {variant!r} was named", next_step=f"ask for {stem}")
    return replace(RECIPES[stem](replace(given or Given(), variant=variant)), recipe=name)


def about(name: str) -> str:
    """A recipe's docstring."""
    return inspect.getdoc(RECIPES[name]) or ""


def choose(given: Given) -> tuple[str, str]:
    """(recipe, why) where nobody named one: by whether there are weights, the images' shape and their number."""
    count = f"{given.images:,} images"
    if given.pretrained:
        if given.images < 20_000:
            return "finetune_small", f"weights were given and {count} are few"
        return "finetune", f"weights were given, and {count} are enough for the paper's schedule"
    if given.shape and max(given.shape[:2]) <= 64:
        size = f"{given.shape[0]}×{given.shape[1]} pixels"
        if max(given.shape[:2]) <= 16:
            return "digits", f"all images are {size}: a tiny model sees everything in them"
        if given.accelerator:
            return "fashion_mnist_gpu", f"all images are {size}, and there is a GPU"
        return "fashion_mnist_cpu", f"all images are {size}, and there is no GPU"
    if given.images < 20_000:
        return "folder:small", f"{count} and no weights: a small model from scratch (weights would do much better)"
    return "folder:medium", f"{count} and no weights: S/16 from scratch"
