"""A model however it is named: a module, a path, or a name of the zoo; and `save`, the way back."""

from dataclasses import replace
from pathlib import Path

from torch import nn

from vitrail.errors import ConfigError, DataError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.backbone import Backbone, ModelConfig
from vitrail.prediction.engine import Engine
from vitrail.prediction.engines import is_exported, open_engine
from vitrail.weights.bundle import Record, is_remote, load, save_bundle
from vitrail.weights.fit import misfits
from vitrail.weights.trained_on import copy_trained_keys, refuse_run

Model = str | Path | Backbone
"""A module with a record, or what `vitrail.load` takes."""
Classifier = Model | Engine
"""The same, or an exported model: an ONNX file, a folder of OpenVINO, an engine."""
Size = int | tuple[int, int] | None
"""Height and width in pixels, one number for a square, or None for the model's own."""


def open_model(model: Model, size: Size = None) -> Backbone:
    """The model, for images of `size`. Raises WeightsError; ConfigError for a module that cannot be resized."""
    if not isinstance(model, nn.Module):
        return load(model, image=size)
    if size is not None:
        raise ConfigError("size and a model that is loaded already", next_step="load it with image=… instead")
    return model


def open_classifier(
    model: Classifier, size: Size = None, *, engine: str = "auto", device: str = "auto", precision: str = "auto"
) -> Backbone | Engine:
    """The model, or the engine of an exported one. Raises WeightsError, and ConfigError for an engine that does not fit."""
    if isinstance(model, str | Path) and is_exported(model):
        return open_engine(model, engine=engine, device=device, precision=precision, size=size)
    if engine not in ("auto", "torch"):
        allowed = "auto or torch for weights; onnxruntime and openvino for exported graphs"
        raise ConfigError(f"engine {engine!r} for {model}", allowed=allowed, next_step="`vitrail export` makes a graph")
    if isinstance(model, str | Path | nn.Module):
        return open_model(model, size)
    if not hasattr(model, "preprocess"):
        raise ConfigError(f"a model that is a {type(model).__name__}", allowed="a path, a module or an engine")
    if size is not None:
        raise ConfigError("size and an engine that is open already", next_step="open it with size=… instead")
    return model


def open_or_build(model: Model) -> Backbone:
    """The model; a name of the zoo is newly initialised."""
    if isinstance(model, nn.Module) or is_remote(model) or Path(model).exists():
        return open_model(model)
    name = str(model)
    if name not in zoo.list_models() and not name.startswith("vit-"):
        raise DataError(f"there is no file or folder {name!r}, and no model of this name", next_step="check the path")
    config = zoo.config(name)
    built = zoo.build(config).eval()
    built.record = Record(config=config, preprocess=_usual(config), source="newly initialised")
    return built


def save(
    model: nn.Module,
    folder: str | Path,
    *,
    classes: tuple[str, ...] | None = None,
    preprocess: Preprocess | None = None,
) -> None:
    """Writes a bundle (model.safetensors and record.json) that `vitrail.load` reads, with trained.keys of what was loaded.

    `classes` and `preprocess` describe a new model, which has no record. Raises StorageError, and ConfigError for a model
    with other layers than its config says, and for the folder of a run; then nothing is written.
    """
    if not isinstance(model, Backbone):
        raise ConfigError(
            "this model has no config",
            allowed="a model of vitrail.build or vitrail.load",
            next_step="save the model inside: wrapped.module, compiled._orig_mod",
        )
    record, config = model.record, model.config
    if record is None:
        record = Record(config=config, preprocess=preprocess or _usual(config), source="saved by hand")
    changes = {name: value for name, value in (("classes", classes), ("preprocess", preprocess)) if value is not None}
    _refuse_misfit(model, classes)
    refuse_run(Path(folder))
    save_bundle(folder, model, replace(record, **changes))
    copy_trained_keys(model.loaded_from, Path(folder))


def _refuse_misfit(model: Backbone, classes: tuple[str, ...] | None) -> None:
    config = model.config
    if classes is not None and len(classes) != config.classes:
        raise ConfigError(f"{len(classes)} class names for a model of {config.classes} outputs")
    if found := misfits(zoo.skeleton(config).state_dict(), model.state_dict()):
        step = "build a model of that config, with classes=… for another head, and load the tensors into it"
        raise ConfigError(f"this model is not the one of its config: {', '.join(found)}", next_step=step)


def _usual(config: ModelConfig) -> Preprocess:
    """The preprocessing of a new model: straight to its size, for as many channels as it has."""
    half = (0.5,) * config.channels
    return Preprocess(size=config.image, mean=half, std=half)
