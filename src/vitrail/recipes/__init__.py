"""Recipes: ways to train, as functions from what is given to a Run; their docstrings say command and published result.

`--recipe NAME` takes one, `--recipe NAME:VARIANT` a row of its table, and every field can be overridden beside it.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace

from vitrail.errors import ConfigError, suggest
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.recipes.distillation import deit_distilled, distill_small
from vitrail.recipes.mae import mae, mae_finetune, mae_partial, mae_probe
from vitrail.recipes.paper import (
    FINETUNE,
    finetune,
    finetune_small,
    linear_probe,
    logistic_head,
    vit_imagenet,
    vit_imagenet21k,
    vit_jft,
)
from vitrail.recipes.pretraining import SMALL, mae_small, masked_patches, moco, pretrain_small, simmim
from vitrail.recipes.published import AUGREG, augreg, big_vision_s16, deit, deit3, torchvision_b16
from vitrail.recipes.request import Given, Pretrained
from vitrail.recipes.small import digits, fashion_mnist_cpu, fashion_mnist_gpu, folder, folder_size
from vitrail.registry import Registry
from vitrail.training.run import Run


@dataclass(frozen=True)
class Recipe:
    """A function from what is given to a Run, and the variants that may stand behind its name."""

    make: Callable[[Given], Run]
    variants: tuple[str, ...] = ()
    open_ended: bool = False
    """Whether the function itself reads variants that only begin with one of these."""

    def check(self, name: str, variant: str) -> None:
        """Raises ConfigError for a variant that is not there."""
        if not variant or self.open_ended or variant in self.variants:
            return
        raise ConfigError(
            f"the recipe {name} has no variant {variant!r}",
            allowed=", ".join(self.variants) or f"{name} alone: it has no variants",
            next_step=suggest(variant, self.variants),
        )


RECIPES = Registry[Recipe](
    "recipe",
    {
        "digits": Recipe(digits),
        "fashion_mnist_cpu": Recipe(fashion_mnist_cpu),
        "fashion_mnist_gpu": Recipe(fashion_mnist_gpu),
        "folder": Recipe(folder, ("tiny", "small", "medium")),
        "finetune": Recipe(finetune, tuple(FINETUNE)),
        "finetune_small": Recipe(finetune_small),
        "linear_probe": Recipe(linear_probe),
        "logistic_head": Recipe(logistic_head),
        "vit_jft": Recipe(vit_jft),
        "vit_imagenet21k": Recipe(vit_imagenet21k, ("30", "90")),
        "vit_imagenet": Recipe(vit_imagenet),
        "augreg": Recipe(augreg, tuple(AUGREG), open_ended=True),
        "big_vision_s16": Recipe(big_vision_s16, ("90", "300")),
        "deit": Recipe(deit),
        "deit3": Recipe(deit3),
        "torchvision_b16": Recipe(torchvision_b16),
        "mae": Recipe(mae, ("800", "1600")),
        "mae_small": Recipe(mae_small),
        "mae_finetune": Recipe(mae_finetune),
        "mae_partial": Recipe(mae_partial, ("1", "2", "4", "6", "8", "12", "18")),
        "mae_probe": Recipe(mae_probe),
        "masked_patches": Recipe(masked_patches, ("mean-colour", "downsized", "pixels")),
        "simmim": Recipe(simmim),
        "moco": Recipe(moco),
        "pretrain_small": Recipe(pretrain_small, tuple(SMALL)),
        "deit_distilled": Recipe(deit_distilled, ("hard", "soft")),
        "distill_small": Recipe(distill_small, ("hard", "soft")),
    },
)


def recipe(name: str, given: Given | None = None) -> Run:
    """The Run of a recipe, by name or "name:variant". Raises ConfigError with the nearest name."""
    stem, _, variant = name.partition(":")
    RECIPES[stem].check(stem, variant)
    return replace(RECIPES[stem].make(replace(given or Given(), variant=variant)), recipe=name)


def recipe_without_weights(name: str) -> Run:
    """A recipe to look at; one that starts from weights is shown with those of a ViT-B/16 at 224 px."""
    try:
        return recipe(name)
    except ConfigError:
        start = Pretrained(path="FILE", config=zoo.config("vit-b/16"), preprocess=Preprocess(size=(224, 224)))
        return recipe(name, Given(pretrained=start))


def about(name: str) -> str:
    """A recipe's docstring: command, published result, what differs from the original."""
    return inspect.getdoc(RECIPES[name].make) or ""


def choose(given: Given) -> tuple[str, str]:
    """(recipe, why) for a run without a named recipe: by whether there are weights, the images' shape and their number."""
    count = f"{given.images:,} images"
    if given.pretrained:
        if given.images < 20_000:
            return "finetune_small", f"weights were given and {count} are few"
        return "finetune", f"weights were given, and {count} are enough for the paper's schedule"
    few = given.images < 2_000
    if given.shape and max(given.shape[:2]) <= (16 if few else 64):
        size = f"{given.shape[0]}×{given.shape[1]} pixels"
        if max(given.shape[:2]) <= 16:
            return "digits", f"all images are {size}: a tiny model sees everything in them"
        if given.accelerator:
            return "fashion_mnist_gpu", f"all images are {size}, and there is a GPU"
        return "fashion_mnist_cpu", f"all images are {size}, and there is no GPU"
    names = {
        "tiny": "a tiny model from scratch (weights would do much better)",
        "small": "a small model from scratch (weights would do much better)",
        "medium": "S/16 from scratch",
    }
    size = folder_size(given.images)
    return f"folder:{size}", f"{count} and no weights: {names[size]}"
