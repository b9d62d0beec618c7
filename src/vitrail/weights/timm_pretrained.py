"""`timm:NAME` as weights: a pre-trained model of timm, with the preprocessing, classes and licence timm gives it."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import nn

from vitrail.errors import WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models import timm_model
from vitrail.models.timm_model import PREFIX, TimmConfig
from vitrail.weights.origins import timm_config as timm
from vitrail.weights.record import Record, Weights


def is_timm_name(path: str | Path) -> bool:
    return str(path).startswith(PREFIX)


def read_pretrained(path: str | Path) -> Weights:
    """The published weights of `timm:NAME`, which timm fetches from the hub and caches.

    Raises ConfigError for a name that timm does not know; WeightsError without weights or without network.
    """
    name = str(path).removeprefix(PREFIX)
    config = timm_model.config_of(name)
    try:
        body, classifier = timm_model.split(timm_model.create(config, pretrained=True), name)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, WeightsError):
            raise
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"the weights of {path} are not in the cache and could not be fetched ({first})",
            next_step=f'connect to a network once, or start from random ones: vitrail.build("{path}")',
        ) from error
    tensors = {f"body.{key}": tensor for key, tensor in body.state_dict().items()}
    if config.classes:
        tensors |= {"head.weight": classifier.weight.detach().flatten(1), "head.bias": _bias(classifier)}
    tensors = {key: tensor for key, tensor in tensors.items() if not key.endswith(timm_model.COUNT)}
    return Weights(tensors, record_of(config))


def record_of(config: TimmConfig) -> Record:
    """The record of a pre-trained model, from timm's own table. A note names a crop that Vitrail does not have."""
    found = timm_model.timm().get_pretrained_cfg(config.name)
    about: dict[str, Any] = {key: value for key, value in dataclasses.asdict(found).items() if value is not None}
    notes = ["timm's crop mode 'border' becomes a centre crop"] if about.get("crop_mode") == "border" else []
    prepared: dict[str, Any] = {"interpolation": "bicubic", **timm.read_preprocess(about), "size": config.image}
    if config.channels != len(prepared["mean"]):
        prepared |= {"mean": (0.5,) * config.channels, "std": (0.5,) * config.channels}
    return Record(
        config=config,
        preprocess=Preprocess(**prepared),
        classes=timm.read_classes({"num_classes": config.classes, "pretrained_cfg": about}),
        source=f"{PREFIX}{config.name}",
        licence=str(about.get("license", "")),
        notes=tuple(notes),
    )


def _bias(classifier: nn.Linear | nn.Conv2d) -> Any:
    bias = classifier.bias
    return classifier.weight.new_zeros(classifier.weight.shape[0]) if bias is None else bias.detach()
