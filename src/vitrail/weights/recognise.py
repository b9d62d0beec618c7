"""Tensors of unknown origin: who wrote them, and a model of them in our names."""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.zoo import ModelConfig
from vitrail.registry import load_plugins
from vitrail.weights import origins
from vitrail.weights.origin import ORIGINS, Foreign, Origin

BUILT_IN = origins.__all__
"""The origins of this package; each registers itself in `ORIGINS`, where plug-ins add theirs."""


def find_origin(keys: Collection[str], where: str) -> Origin:
    """The one origin that has files of these keys. WeightsError for unknown or ambiguous ones."""
    found = _fitting(keys)
    if not found:
        load_plugins()
        found = _fitting(keys)
    if len(found) != 1:
        some = ", ".join(sorted(keys)[:4])
        names = " and ".join(origin.name for origin in found)
        what = f"fits {names} alike" if found else f"is of no known origin (its keys: {some}, …)"
        raise WeightsError(f"{where} {what}", allowed=", ".join(ORIGINS), next_step=_nearest(keys))
    return found[0]


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
    origin = find_origin(tensors.keys(), where)
    return origin.name, origin.read(tensors, where=where, config=config, told=told, wrapped=wrapped)


def _fitting(keys: Collection[str]) -> list[Origin]:
    return [origin for origin in ORIGINS.values() if origin.style(keys)]


def _nearest(keys: Collection[str]) -> str:
    """The origins whose signature is most nearly there, and what each lacks."""
    signatures = {name: next(iter(origin.styles.values())).signature for name, origin in ORIGINS.items()}
    lacks = {name: sorted(set(signature) - set(keys)) for name, signature in signatures.items()}
    ranked = sorted(lacks, key=lambda name: len(lacks[name]) / len(signatures[name]))
    some = [f"{name} lacks {', '.join(lacks[name][:3])}" for name in ranked if lacks[name]]
    return "nearest: " + "; ".join(some[:4]) + "; a model of timm loads by its name, timm:NAME"
