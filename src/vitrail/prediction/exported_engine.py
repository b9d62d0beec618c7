"""The engines that answer from an exported graph. Each runtime is a subclass in a file of its own."""

import abc
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from vitrail.errors import ConfigError, ShapeError
from vitrail.images.content_keys import Keys
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.artefact import Artefact, Exported
from vitrail.weights.record import Record


@dataclass(frozen=True, eq=False)
class ExportedEngine(abc.ABC):
    """A graph on disk, ready to answer: an `Engine` whose record is the exported model's."""

    artefact: Artefact
    runs: Any
    """The runtime's own object."""
    name: str
    precision: str
    size: tuple[int, int] | None = None
    """Height and width to answer at, instead of the record's."""

    @abc.abstractmethod
    def run(self, images: np.ndarray) -> np.ndarray:
        """The graph alone, on whatever it is given; a runtime raises its own errors."""

    @property
    def exported(self) -> Exported:
        return self.artefact.exported

    @cached_property
    def record(self) -> Record:
        found = self.exported.record
        return found if self.size is None else replace(found, preprocess=replace(found.preprocess, size=self.size))

    @property
    def preprocess(self) -> Preprocess:
        return self.record.preprocess

    @property
    def classes(self) -> tuple[str, ...]:
        return self.record.classes

    @property
    def digest(self) -> str:
        return self.artefact.sha256

    @property
    def loaded_from(self) -> str:
        return str(self.artefact.path)

    @property
    def trained_keys(self) -> Keys | None:
        """The images that its weights were trained on, by content."""
        return self.artefact.trained_keys

    def at_size(self, size: tuple[int, int]) -> "ExportedEngine":
        """The same for images of another height and width. ShapeError where the graph takes only one."""
        self.check_size(size)
        return replace(self, size=size)

    def check_size(self, size: tuple[int, int]) -> None:
        """ShapeError for a height and width that the graph does not take."""
        if self.exported.any_size:
            self.record.config.grid_at(size)
        elif tuple(size) != self.exported.record.preprocess.size:
            height, width = self.exported.record.preprocess.size
            raise ShapeError(
                f"images of {size[0]}×{size[1]} pixels for {self.artefact.path}",
                allowed=f"{height}×{width}, the one size it was exported for",
                next_step="export the model again at the other size",
            )

    def logits(self, images: UInt8[Tensor, "B C H W"]) -> Float32[Tensor, "B K"]:
        """Answers, for 8-bit images of one shape."""
        self.check_size((images.shape[2], images.shape[3]))
        if images.shape[1] != self.preprocess.channels:
            raise ShapeError(f"images of {images.shape[1]} channels", allowed=f"{self.preprocess.channels}")
        pixels = self.preprocess.normalise(images) if self.exported.floats else images
        return torch.from_numpy(np.asarray(self.run(np.ascontiguousarray(pixels.numpy())), dtype=np.float32))


def missing(package: str, extra: str) -> ConfigError:
    """The error where a runtime is not installed."""
    return ConfigError(f"{package} is not installed", next_step=f"pip install 'vitrail[{extra}]'")
