"""Vitrail: Vision Transformers to train, measure, look inside and put to work.

    import vitrail

    model = vitrail.load("runs/digits-1")          # an nn.Module in eval mode: model(images) -> logits
    fresh = vitrail.build("vit-b/16", classes=10)  # the paper's ViT-B/16, newly initialised

The names below come on first use, so `import vitrail` costs nothing. A stage is a package with a verb of its name:
`vitrail.training.train`, `vitrail.evaluation.evaluate`, `vitrail.prediction.predict`.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vitrail.batches.loader import Batch
    from vitrail.batches.mixing import Mixing
    from vitrail.errors import ConfigError, DataError, VitrailError, WeightsError
    from vitrail.evaluation.classification import Scores
    from vitrail.evaluation.features import extract
    from vitrail.images.decode import decode
    from vitrail.images.preprocess import Preprocess
    from vitrail.images.sources import open_data, open_images
    from vitrail.images.transforms import Augment
    from vitrail.inspection.trace import trace
    from vitrail.models.cost import macs, parameters
    from vitrail.models.features import Backbone, Features
    from vitrail.models.vit import ViT, ViTConfig
    from vitrail.models.zoo import build, names
    from vitrail.objectives.classify import Classify
    from vitrail.objectives.objective import Loss
    from vitrail.prediction.predict import Prediction
    from vitrail.recipes import RECIPES, recipe
    from vitrail.training.run import Hardware, Optim, Run
    from vitrail.weights.bundle import Record, load, load_for_finetuning, save_bundle

__all__ = [
    "RECIPES",
    "Augment",
    "Backbone",
    "Batch",
    "Classify",
    "ConfigError",
    "DataError",
    "Features",
    "Hardware",
    "Loss",
    "Mixing",
    "Optim",
    "Prediction",
    "Preprocess",
    "Record",
    "Run",
    "Scores",
    "ViT",
    "ViTConfig",
    "VitrailError",
    "WeightsError",
    "build",
    "decode",
    "extract",
    "load",
    "load_for_finetuning",
    "macs",
    "names",
    "open_data",
    "open_images",
    "parameters",
    "recipe",
    "save_bundle",
    "trace",
]

_HOMES = {
    "RECIPES": "recipes",
    "Augment": "images.transforms",
    "Backbone": "models.features",
    "Batch": "batches.loader",
    "Classify": "objectives.classify",
    "ConfigError": "errors",
    "DataError": "errors",
    "Features": "models.features",
    "Hardware": "training.run",
    "Loss": "objectives.objective",
    "Mixing": "batches.mixing",
    "Optim": "training.run",
    "Prediction": "prediction.predict",
    "Preprocess": "images.preprocess",
    "Record": "weights.bundle",
    "Run": "training.run",
    "Scores": "evaluation.classification",
    "ViT": "models.vit",
    "ViTConfig": "models.vit",
    "VitrailError": "errors",
    "WeightsError": "errors",
    "build": "models.zoo",
    "decode": "images.decode",
    "extract": "evaluation.features",
    "load": "weights.bundle",
    "load_for_finetuning": "weights.bundle",
    "macs": "models.cost",
    "names": "models.zoo",
    "open_data": "images.sources",
    "open_images": "images.sources",
    "parameters": "models.cost",
    "recipe": "recipes",
    "save_bundle": "weights.bundle",
    "trace": "inspection.trace",
}
_STAGES = ("evaluation", "inspection", "models", "prediction", "recipes", "training")


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"vitrail.{_HOMES[name]}"), name)
    if name in _STAGES:
        return importlib.import_module(f"vitrail.{name}")
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_STAGES])
