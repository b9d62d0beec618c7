"""The contract of every model family. All that the rest of the package asks of a model is here."""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vitrail.errors import DoesNotApply
from vitrail.models.checks import Grid
from vitrail.models.extras import nest
from vitrail.models.features import Features
from vitrail.models.initialise import zero_head
from vitrail.models.layers import Attention
from vitrail.registry import OpenConfig, Registry

Stage = tuple[str, Sequence[nn.Module | nn.Parameter]]
"""A name, and the modules and parameters that belong to it."""


@dataclass(frozen=True)
class ModelConfig(OpenConfig):
    """Base of all model configs: each has a `family`, the three values below, and those of its own."""

    @property
    def image(self) -> tuple[int, int]:
        """Height and width in pixels the model is made for; most families take any other too."""
        raise NotImplementedError

    @property
    def channels(self) -> int:
        """Channels of an image."""
        raise NotImplementedError

    @property
    def classes(self) -> int:
        """Outputs of the head; 0 for a model without one."""
        raise NotImplementedError

    @property
    def multiple(self) -> int:
        """Height and width of images should be multiples of this number of pixels."""
        raise NotImplementedError

    @property
    def head_bias(self) -> float:
        """Start value of the head's bias; -log K suits sigmoid losses."""
        extras = getattr(self, "extras", None)
        return extras.head_bias if extras else 0.0

    @property
    def prefix(self) -> int:
        """Tokens before those of the grid: class token, registers."""
        return 0

    @property
    def reads(self) -> str:
        """The tokens that the head reads: "cls", "mean", "map", "cls-mean" or "distilled"."""
        return getattr(self, "pool", "mean")

    @property
    def encoder(self) -> "ModelConfig":
        """The config without what pre-training puts around it: the encoder of a masked autoencoder, else itself."""
        return self

    @property
    def parts(self) -> Mapping[str, "ModelConfig"]:
        """The configs of models inside, by the first word of their parameters' names."""
        return {}

    @property
    def read_width(self) -> int:
        """Features of an image that the head reads; 0 where the config does not tell."""
        return 0

    @property
    def hides_patches(self) -> bool:
        """Whether single patches can be hidden from the model, as masked pre-training does."""
        return False

    @property
    def exports_any_size(self) -> bool:
        """Whether an exported graph can take every height and width that the model takes; else it has one size."""
        return False

    @property
    def contents(self) -> str:
        """The parts of a file with such weights, in words."""
        return f"encoder, head of {self.classes:,} outputs" if self.classes else "encoder, no head"

    def grid_at(self, image: tuple[int, int]) -> Grid:
        """Rows and columns (h, w) of tokens for an image of H×W pixels. ShapeError for a size that does not fit."""
        return -(-image[0] // self.multiple), -(-image[1] // self.multiple)

    @classmethod
    def upgrade(cls, data: Mapping[str, Any]) -> Mapping[str, Any]:
        """The names of extras stood among the others in version 0.1.0."""
        extras = getattr(cls, "extras", None)
        return nest(data, extras) if extras else data

    @classmethod
    def member(cls, family: str) -> type["ModelConfig"]:
        return FAMILIES[family].Config


C = TypeVar("C", bound=ModelConfig)


class Backbone(nn.Module, abc.ABC, Generic[C]):
    """A model: images to tokens, tokens to one vector an image, the vector to logits.

    A family is one subclass in one file, with its config, and `@FAMILIES.register(name)` above it.
    """

    Config: ClassVar[type[ModelConfig]]
    """The class of the family's configs."""
    config: C
    head: nn.Module
    """From pooled features to logits, or Identity in a model without classes."""
    record: Any = None
    """The `vitrail.weights.bundle.Record` of a model that was loaded: source, licence, classes, preprocessing."""
    loaded_from: str | None = None
    """The path it was loaded from."""
    checkpoint_activations = False
    """True: activations inside the blocks are not kept but computed again in the backward pass. The bits are the same."""

    @abc.abstractmethod
    def features(self, images: Float[Tensor, "B C H W"]) -> Features:
        """The tokens after the last norm."""

    @abc.abstractmethod
    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """One vector an image: the head, probes and few-shot classifiers read it."""

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.pool(self.features(images)))

    def student_logits(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
        """(logits that follow the labels, logits that follow a teacher), each B K: the same with one head."""
        logits = self(images)
        return logits, logits

    @abc.abstractmethod
    def stages(self) -> Sequence[Stage]:
        """Stem first, head last; every parameter is in exactly one stage.

        Layer decay, freezing and inspection go by the stages.
        """

    @abc.abstractmethod
    def initialise(self, generator: torch.Generator) -> None:
        """Draws all weights: the same state of the generator gives the same bits."""

    def initialise_head(self) -> None:
        """A zero head, in pre-training and fine-tuning alike (section 3.2): at the first step all classes are equal."""
        zero_head(self.head, self.config.head_bias)

    @property
    def trunk(self) -> "Backbone":
        """The model of tokens: the encoder of an MAE, the ViT of a hybrid, else the model itself."""
        return self

    @property
    def map_reader(self) -> nn.Module | None:
        """The layer that reads the last map of convolutions where more layers follow (hybrids); None elsewhere."""
        return None

    def paint(self, images: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"], ratio: float) -> "Painting":
        """Hides the `ratio` of patches with the largest noise and paints them. DoesNotApply without a decoder."""
        raise DoesNotApply(f"a {type(self).__name__} paints nothing: only a masked autoencoder with its decoder does")

    def attention_layers(self) -> list[tuple[str, nn.Module]]:
        """(name, layer) of all self-attention in the order of the network; empty in a model without any."""
        return [(name, layer) for name, layer in self.trunk.named_modules() if isinstance(layer, Attention)]

    @property
    def multiple(self) -> int:
        """Height and width of images should be multiples of this number of pixels."""
        return self.config.multiple

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())


@dataclass(frozen=True, eq=False)
class Painting:
    """Normalised images with some patches painted by a model."""

    images: Float[Tensor, "B C H W"]
    """The visible patches as they are, and the model's guess for the hidden ones."""
    visible: Bool[Tensor, "B C H W"]
    lent: bool
    """Whether the true image lends each hidden patch its mean and contrast."""


FAMILIES = Registry[type[Backbone]]("model family")
"""All families by name. A plug-in adds its own with `FAMILIES.register`."""
