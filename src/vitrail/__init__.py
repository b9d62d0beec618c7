"""Vitrail: Vision Transformers to train, measure, look inside and put to work.

    import vitrail

    result = vitrail.train("./photos", epochs=30)     # one folder per class; result.scores, result.model, result.folder
    vitrail.evaluate("runs/photos-1", "./photos")     # accuracy with its interval, on images that were not trained on
    vitrail.predict("runs/photos-1", "new.jpg")       # the likeliest classes
    model = vitrail.load("runs/photos-1")             # an nn.Module in eval mode: model(images) -> logits
    fresh = vitrail.build("vit-b/16", classes=10)     # the paper's ViT-B/16, newly initialised

Every command of `vitrail` is a function here, with the same names and defaults. A name is imported when it is first used,
so that `import vitrail` is free. The packages below (`vitrail.models`, `vitrail.training`, …) are the parts they are made of.
"""

import importlib
from types import FunctionType
from typing import Any

# module: the names it gives; `__init__.pyi` says the same to type checkers
_MODULES = {
    "api.data": ("check_data", "clean_data", "pack_data"),
    "api.embed": ("embed",),
    "api.evaluate": ("compare", "evaluate", "robustness"),
    "api.export": ("export",),
    "api.inspect": ("inspect", "trace"),
    "api.look": ("look",),
    "api.models": ("save",),
    "api.name": ("name",),
    "api.plan": ("plan",),
    "api.predict": ("predict",),
    "api.probe": ("probe",),
    "api.serve": ("serve",),
    "api.show_data": ("show_data",),
    "api.similar": ("similar",),
    "api.train": ("Trained", "train"),
    "api.tune": ("tune",),
    "api.weights": ("check_weights", "convert_weights", "show_weights"),
    "batches.batch": ("Batch",),
    "batches.mixing": ("Mixing",),
    "errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "DecodeError",
        "MemoryRanOut",
        "NonFiniteError",
        "Preempted",
        "ShapeError",
        "StorageError",
        "VitrailError",
        "WeightsError",
    ),
    "hardware": ("Hardware",),
    "images.preprocess": ("Preprocess",),
    "images.samples": ("Source", "Splits"),
    "images.sources": ("open_data", "open_images"),
    "images.transforms": ("Augment",),
    "models.backbone": ("Backbone",),
    "models.cost": ("count_parameters",),
    "models.features": ("Features",),
    "models.vit": ("ViT", "ViTConfig"),
    "models.zoo": ("build", "list_models"),
    "objectives.classify": ("Classify",),
    "objectives.objective": ("Loss",),
    "prediction.predict": ("Prediction",),
    "recipes": ("RECIPES", "recipe"),
    "scores.classification": ("Scores",),
    "study.suite": ("suite",),
    "training.extract_weights": ("export_run",),
    "training.run": ("Optim", "Run"),
    "training.verify": ("verify_run",),
    "weights.bundle": ("load", "load_for_finetuning"),
    "weights.push": ("push",),
    "weights.record": ("Record",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}
_PACKAGES = (
    "api", "batches", "checkpoints", "evaluation", "exporting", "images", "inspection", "models", "objectives", "prediction",
    "processes", "recipes", "reports", "scores", "serving", "study", "training", "weights",
)  # fmt: skip

__all__ = sorted(_HOMES)  # pyrefly: ignore[unsupported-operation]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        found = getattr(importlib.import_module(f"vitrail.{_HOMES[name]}"), name)
        return _checked(found) if isinstance(found, FunctionType) else found
    if name in _PACKAGES:
        return importlib.import_module(f"vitrail.{name}")
    if name == "__version__":
        from importlib.metadata import version

        return version("vitrail")
    raise AttributeError(f"module 'vitrail' has no attribute {name!r}{_near(name)}")


def _checked(function: Any) -> Any:
    from vitrail.arguments import check_arguments

    return check_arguments(function)


def __dir__() -> list[str]:
    return sorted([*__all__, *_PACKAGES, "__version__"])


def _near(name: str) -> str:
    from vitrail.errors import suggest

    hint = suggest(name, [*_HOMES, *_PACKAGES])
    return f"; {hint}" if hint else ""
