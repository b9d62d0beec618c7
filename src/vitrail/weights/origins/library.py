"""Libraries whose files `convert` writes. The module of an origin registers its own; that of a family adds its writer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitrail.images.preprocess import Preprocess
from vitrail.registry import Registry

Writer = Callable[[Mapping[str, Tensor], Any], dict[str, Tensor]]
"""(a state, its config) to the library's tensors. WeightsError for a model that the library does not have."""
Describe = Callable[[Any, Preprocess, tuple[str, ...]], dict[str, dict[str, Any]]]
"""(config, preprocessing, class names) to JSON files by name."""


def _describe_nothing(config: Any, preprocess: Preprocess, classes: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {}


@dataclass(frozen=True, kw_only=True)
class Library:
    """How its files look, and what they do not say."""

    suffixes: tuple[str, ...]
    """Endings of a file of tensors; "" is a folder with model.safetensors."""
    writers: dict[str, Writer] = field(default_factory=dict)
    """By family."""
    describe: Describe = _describe_nothing
    """The JSON files next to the tensors; none where its files have none, or cannot describe the model."""
    tellable: tuple[str, ...] = ()
    """Settings that its users pass when they build a model: without JSON files nothing says them."""
    untold: Mapping[str, Any] = field(default_factory=dict)
    """Settings that its JSON files do not say either, and the value that a reader takes."""
    drops: tuple[str, ...] = ()
    """Tensors for which it has no name, and needs none."""
    positions_on: str = "all"
    """The tokens before the patches that its position tables have rows for."""
    keeps_sincos: bool = False
    """Whether its code computes fixed positions itself; others get them as a table."""


LIBRARIES = Registry[Library]("library to convert to")
