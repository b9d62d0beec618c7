"""The facts that go with weights: config, preprocessing, classes, licence, scores."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from vitrail.config import PROBABILITY, Range, check_ranges
from vitrail.images.preprocess import Preprocess
from vitrail.models.zoo import ModelConfig

TEMPERATURE: Range = (lambda number: 1e-4 <= number <= 1e4, "0.0001 to 10,000")
Told = ModelConfig | Mapping[str, Any] | None
"""A whole config, or the fields of one that a file does not say."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The facts that go with weights: evaluation, prediction, serving and export all read them here."""

    config: ModelConfig
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    """Names of the outputs, in order; empty where they are unknown."""
    source: str = ""
    licence: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    training: dict[str, str | float] = field(default_factory=dict)
    """How they were trained, where a published name says it."""
    temperature: float | None = None
    """Divides the logits so that probabilities can be believed; fitted on validation images. None: not fitted."""
    threshold: float | None = None
    """The least probability (sigmoid) of a label, if an image can have several. None: one label an image."""
    numeric: bool = False
    """Whether the output is a number, of the name `classes`, and not the logits of classes."""
    least: float | None = None
    """The least probability of a class, after the temperature; an image below it is none of the classes. None: not chosen."""
    notes: tuple[str, ...] = ()
    """Settings that the file does not have, and where they come from."""
    sha256: str = ""
    """The digest of the file of tensors."""

    def __post_init__(self) -> None:
        check_ranges(self, temperature=TEMPERATURE, threshold=PROBABILITY, least=PROBABILITY)


@dataclass(frozen=True)
class Weights:
    """Tensors in our names, and their record."""

    tensors: dict[str, Tensor]
    record: Record
