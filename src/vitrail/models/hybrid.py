"""The hybrids of the ViT paper (section 3.1, B.1.1): a ViT whose patches are cut from a ResNet's map, not from pixels.

The ResNet is v1 with GroupNorm and TensorFlow's SAME padding. R50+ViT-B/16 takes depths (3, 4, 9): stage 4 is gone and
its three units are in stage 3, for a map four times as large. Both halves are models of their own, in their own files.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitrail.errors import ShapeError
from vitrail.models.backbone import FAMILIES, Backbone, ModelConfig, Stage
from vitrail.models.checks import Grid, check_images
from vitrail.models.extras import PLAIN, Extras
from vitrail.models.features import Features
from vitrail.models.positions import PositionKind
from vitrail.models.resnet import ResNet, ResNetConfig, Standardise
from vitrail.models.vit import ViT, ViTConfig


@dataclass(frozen=True, kw_only=True)
class HybridConfig(ModelConfig):
    """All that makes one hybrid differ from another; the defaults are R50+ViT-B/16 at 224 pixels."""

    family: ClassVar[str] = "hybrid"
    depths: tuple[int, ...] = (3, 4, 9)
    """Units of each stage of the ResNet; () leaves its root alone, as in R+ViT-Ti/16."""
    widths: tuple[int, ...] = (256, 512, 1024)
    root_width: int = 64
    standardise: Standardise = "deviation"
    """As in ResNetConfig; timm has "variance", 1e-8 and norms of 1e-5."""
    standardise_eps: float = 1e-5
    group_norm_eps: float = 1e-6
    patch: tuple[int, int] = (1, 1)
    """In positions of the ResNet's map."""
    image: tuple[int, int] = (224, 224)
    """Height and width the position table is made for; the model takes any size that gives whole patches."""
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp_width: int = 3072
    classes: int = 1000
    pool: Literal["cls", "mean", "map", "cls-mean"] = "cls"
    positions: PositionKind = "learned"
    dropout: float = 0.0
    extras: Extras = PLAIN
    """The additions to the ViT, as in ViTConfig."""

    def __post_init__(self) -> None:
        _ = self.resnet, self.vit  # both check their own

    @property
    def multiple(self) -> int:
        return math.lcm(*self.patch) * self.resnet.stride

    @property
    def resnet(self) -> ResNetConfig:
        """The half that reads pixels."""
        return ResNetConfig(
            depths=self.depths,
            widths=self.widths,
            root_width=self.root_width,
            image=self.image,
            channels=self.channels,
            classes=0,
            order="post",
            padding="same",
            standardise=self.standardise,
            standardise_eps=self.standardise_eps,
            norm_eps=self.group_norm_eps,
        )

    @property
    def vit(self) -> ViTConfig:
        """The half that reads the map: its image has the map's size, its channels are the ResNet's."""
        h, w = self.grid
        names = ("width", "depth", "heads", "mlp_width", "patch", "classes", "pool", "positions", "dropout", "extras")
        image = (h * self.patch[0], w * self.patch[1])
        return ViTConfig(image=image, channels=self.resnet.width, **{name: getattr(self, name) for name in names})

    @property
    def parts(self) -> dict[str, ModelConfig]:
        return {"resnet": self.resnet, "vit": self.vit}

    @property
    def prefix(self) -> int:
        return self.vit.prefix

    @property
    def grid(self) -> Grid:
        """Patch rows and columns (h, w) at `image`."""
        return self.grid_at(self.image)

    def grid_at(self, image: tuple[int, int]) -> Grid:
        """Patch rows and columns (h, w) for an image of H×W pixels, or ShapeError."""
        h, w = self.resnet.grid(image)
        (p, q), stride = self.patch, self.resnet.stride
        if not h or not w or h % p or w % q:
            raise ShapeError(
                f"image {image[0]}×{image[1]} gives a map of {h}×{w}, which does not divide into {p}×{q} patches",
                next_step=f"resize to multiples of {stride * p}×{stride * q}",
            )
        return h // p, w // q


@FAMILIES.register("hybrid")
class Hybrid(Backbone[HybridConfig]):
    """Backbone of the hybrids. `vitrail.build` makes one with initialised weights; the constructor draws none."""

    Config = HybridConfig

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.config = config
        self.resnet = ResNet(config.resnet)
        self.vit = ViT(config.vit)

    @property
    def checkpoint_activations(self) -> bool:
        """Keep no activations inside units and blocks; recompute them in the backward pass. The same bits come out."""
        return self.vit.checkpoint_activations

    @checkpoint_activations.setter
    def checkpoint_activations(self, keep_none: bool) -> None:
        self.resnet.checkpoint_activations = self.vit.checkpoint_activations = keep_none

    @property
    def head(self) -> nn.Module:  # pyrefly: ignore[bad-override]  # a module of the model inside
        """The ViT's."""
        return self.vit.head

    def features(self, images: Float[Tensor, "B C H W"]) -> Features:
        """z_L after the final norm: all tokens."""
        check_images(images, self.config.channels)
        self.config.grid_at((images.shape[2], images.shape[3]))
        return self.vit.features(self.resnet.map(images))

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """y of equation 4, as in the ViT."""
        return self.vit.pool(features)

    @property
    def trunk(self) -> Backbone:
        return self.vit

    @property
    def map_reader(self) -> nn.Module:
        return self.vit.patch_embed

    def stages(self) -> Sequence[Stage]:
        """The ResNet's root, its units, the ViT's embedding, its blocks, the head: every parameter in exactly one."""
        *convolutional, _ = self.resnet.stages()  # its head is empty
        (_, embedding), *blocks = self.vit.stages()
        return [*convolutional, ("embedding", embedding), *blocks]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The originals' start, ResNet first."""
        self.resnet.initialise(generator)
        self.vit.initialise(generator)
