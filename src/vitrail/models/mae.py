"""Masked autoencoders (arXiv 2111.06377): an encoder that sees a quarter of the patches, a decoder that paints the rest.

The encoder is a `ViT` as any other: after pre-training it is taken out and used. Random numbers come in as `noise`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from vitrail.errors import ConfigError, DoesNotApply
from vitrail.models.backbone import FAMILIES, Backbone, ModelConfig, Painting, Stage
from vitrail.models.checks import Grid, at_least
from vitrail.models.extras import Extras
from vitrail.models.features import Features
from vitrail.models.initialise import initialise_layers, xavier_uniform_
from vitrail.models.layers import Block
from vitrail.models.positions import SinCosPositions
from vitrail.models.vit import ViT, ViTConfig

ENCODER = ViTConfig(positions="sincos-mae", classes=0)


@dataclass(frozen=True, kw_only=True)
class MAEConfig(ModelConfig):
    """An encoder and its decoder; the defaults of the decoder are the paper's."""

    family: ClassVar[str] = "mae"
    encoder: ViTConfig = ENCODER
    decoder_width: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    decoder_mlp_width: int = 2048
    target: Literal["normalised", "pixels", "unknown"] = "normalised"
    """The decoder's prediction: each patch with its own mean and deviation taken out, or pixels as they are. A published
    file does not say."""

    def __post_init__(self) -> None:
        at_least(self, 1, "decoder_width", "decoder_depth", "decoder_heads", "decoder_mlp_width")
        for parts in (4, self.decoder_heads):
            if self.decoder_width % parts:
                raise ConfigError(f"decoder_width = {self.decoder_width}", allowed=f"a multiple of {parts}")
        if self.encoder.extras.final_norm != "tokens":
            raise ConfigError("final_norm='pooled' in a masked autoencoder", allowed="'tokens': the decoder reads them")

    @property
    def parts(self) -> dict[str, ModelConfig]:
        return {"encoder": self.encoder}

    @property
    def contents(self) -> str:
        target = {"normalised": "normalised pixels"}.get(self.target, self.target)
        return f"encoder and decoder, which predicts {target}"

    def grid_at(self, image: tuple[int, int]) -> Grid:
        return self.encoder.grid_at(image)

    # all else that is asked of a config is the encoder's
    image = property(lambda self: self.encoder.image)
    patch = property(lambda self: self.encoder.patch)
    grid = property(lambda self: self.encoder.grid)
    prefix = property(lambda self: self.encoder.prefix)
    channels = property(lambda self: self.encoder.channels)
    classes = property(lambda self: self.encoder.classes)
    head_bias = property(lambda self: self.encoder.head_bias)
    multiple = property(lambda self: self.encoder.multiple)


@dataclass(frozen=True)
class Masking:
    """Which patches are seen and which are not, by their place in the grid; the two together are all of them."""

    visible: Int[Tensor, "B n"]
    hidden: Int[Tensor, "B m"]

    @property
    def mask(self) -> Float[Tensor, "B N"]:
        """1 where a patch is hidden."""
        total = self.visible.shape[1] + self.hidden.shape[1]
        return torch.zeros(len(self.hidden), total, device=self.hidden.device).scatter_(1, self.hidden, 1.0)


def masking(noise: Float[Tensor, "B N"], ratio: float) -> Masking:
    """Of each image the patches of smallest noise stay visible: int(N·(1 - ratio)), in the order of their noise."""
    order = noise.argsort(dim=1, stable=True)
    keep = visible_patches(noise.shape[1], ratio)
    return Masking(order[:, :keep], order[:, keep:])


def visible_patches(patches: int, ratio: float) -> int:
    """How many of them a mask leaves, in floating point as the original: 4 of 25 at 0.8. ConfigError for none or all."""
    keep = int(patches * (1 - ratio))
    if not 0 < keep < patches:
        what = "all" if keep else "none"
        raise ConfigError(
            f"mask_ratio = {ratio} of {patches} patches leaves {what} of them visible",
            allowed="a ratio between 0 and 1 that hides one patch at least and leaves one",
            next_step="use a smaller patch, a larger image or another ratio",
        )
    return keep


def patchify(images: Float[Tensor, "B C H W"], patch: tuple[int, int]) -> Float[Tensor, "B N P"]:
    """Each patch's pixels as one row, channels last: P = p·q·C, patches in raster order."""
    p, q = patch
    return rearrange(images, "B C (h p) (w q) -> B (h w) (p q C)", p=p, q=q)


def unpatchify(patches: Float[Tensor, "B N P"], patch: tuple[int, int], grid: Grid) -> Float[Tensor, "B C H W"]:
    """The images of which `patchify` made these."""
    (p, q), (h, w) = patch, grid
    return rearrange(patches, "B (h w) (p q C) -> B C (h p) (w q)", h=h, w=w, p=p, q=q)


def rows(table: Shaped[Tensor, "B N D"], index: Int[Tensor, "B n"]) -> Shaped[Tensor, "B n D"]:
    """Of each image, the rows named by its index."""
    return table.gather(1, index[:, :, None].expand(-1, -1, table.shape[2]))


@FAMILIES.register("mae")
class MAE(Backbone[MAEConfig]):
    """The pair. As a `Backbone` it is its encoder, on all patches: features for probes, fine-tuning and inspection."""

    Config = MAEConfig

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ViT(config.encoder)
        self.decoder = Decoder(config)

    def encode(self, images: Float[Tensor, "B C H W"], visible: Int[Tensor, "B n"]) -> Float[Tensor, "B T D"]:
        """The encoder's tokens after the final norm: prefix, then visible patches. The others are never embedded."""
        grid = self.encoder.patch_embed.grid(images)
        return self.embed(rows(patchify(images, self.config.patch), visible), visible, grid)

    def embed(self, patches: Float[Tensor, "B n P"], visible: Int[Tensor, "B n"], grid: Grid) -> Float[Tensor, "B T D"]:
        stem = self.encoder.patch_embed
        kernel = rearrange(stem.weight, "D C p q -> D (p q C)")
        tokens = self.encoder.place(F.linear(patches, kernel, stem.bias), grid, visible)
        return self.encoder.encode(tokens, grid, visible)

    def decode(self, latent: Float[Tensor, "B T D"], masking: Masking, grid: Grid) -> Float[Tensor, "B M d"]:
        """The decoder's tokens before its final norm, at every place of the grid in raster order behind the prefix."""
        return self.decoder(latent, masking, grid, self.config.encoder.prefix)

    def predict(self, images: Float[Tensor, "B C H W"], masking: Masking) -> Float[Tensor, "B N P"]:
        """The target's prediction for every patch, visible ones too (nothing taught it those)."""
        grid = self.encoder.patch_embed.grid(images)
        tokens = self.decode(self.encode(images, masking.visible), masking, grid)
        return self.decoder.read(tokens[:, self.config.encoder.prefix :])

    def predict_hidden(
        self, images: Float[Tensor, "B C H W"], masking: Masking
    ) -> tuple[Float[Tensor, "B m P"], Float[Tensor, "B m P"]]:
        """(prediction, true pixels) of the hidden patches alone, which is all that learning reads."""
        grid = self.encoder.patch_embed.grid(images)
        patches = patchify(images, self.config.patch)
        latent = self.embed(rows(patches, masking.visible), masking.visible, grid)
        tokens = self.decode(latent, masking, grid)[:, self.config.encoder.prefix :]
        return self.decoder.read(rows(tokens, masking.hidden)), rows(patches, masking.hidden)

    def paint(self, images: Float[Tensor, "B C H W"], noise: Float[Tensor, "B N"], ratio: float) -> Painting:
        """Patches of small noise stay visible; the decoder paints the rest, back in pixels (MAE, figures 2 and 3)."""
        if self.config.target == "unknown":
            raise DoesNotApply("these weights do not say whether their decoder predicts pixels or normalised pixels")
        grid, mask = self.encoder.patch_embed.grid(images), masking(noise, ratio)
        patches = patchify(images, self.config.patch)
        guess = from_target(self.predict(images, mask), patches, self.config.target)
        hidden = mask.mask[..., None].to(patches)
        painted = unpatchify(patches * (1 - hidden) + guess * hidden, self.config.patch, grid)
        visible = unpatchify((1 - hidden).expand_as(patches), self.config.patch, grid).bool()
        return Painting(painted, visible, self.config.target == "normalised")

    def features(self, images: Float[Tensor, "B C H W"]) -> Features:
        return self.encoder.features(images)

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        return self.encoder.pool(features)

    @property
    def head(self) -> nn.Module:  # pyrefly: ignore[bad-override]  # a module of the model inside
        """The encoder's."""
        return self.encoder.head

    @property
    def trunk(self) -> Backbone:
        return self.encoder

    def stages(self) -> Sequence[Stage]:
        """The encoder's, with the decoder beside its head."""
        *body, (name, head) = self.encoder.stages()
        return [*body, (name, [*head, self.decoder])]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """Xavier for every matrix, the patch embedding too; N(0, 0.02²) for class and mask tokens (appendix A.1)."""
        self.encoder.initialise(generator)
        weight = self.encoder.patch_embed.weight
        xavier_uniform_(weight, weight[0].numel(), len(weight), generator)
        if self.encoder.cls_token is not None:
            self.encoder.cls_token.normal_(std=0.02, generator=generator)
        self.decoder.initialise(generator)


class Decoder(nn.Module):
    """Mask tokens where nothing was seen, positions for all, a few blocks, one linear map to pixels."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        width, encoder = config.decoder_width, config.encoder.extras
        extras = Extras(norm_eps=encoder.norm_eps, qkv_bias=encoder.qkv_bias)
        self.embed = nn.Linear(config.encoder.width, width)
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.positions = SinCosPositions(width, "sincos-mae")
        self.blocks = nn.ModuleList(
            Block(width, config.decoder_heads, config.decoder_mlp_width, extras) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width, eps=extras.norm_eps)
        self.head = nn.Linear(width, config.patch[0] * config.patch[1] * config.channels)

    def forward(
        self, latent: Float[Tensor, "B T D"], masking: Masking, grid: Grid, prefix: int
    ) -> Float[Tensor, "B M d"]:
        tokens = self.embed(latent)
        table = self.positions(grid, self.mask_token)
        places = masking.visible[:, :, None].expand(-1, -1, tokens.shape[2])
        blank = self.mask_token.to(tokens.dtype).expand(tokens.shape[0], grid[0] * grid[1], -1)
        patches = blank.scatter(1, places, tokens[:, prefix:]) + table
        x = torch.cat([tokens[:, :prefix], patches], dim=1)
        for block in self.blocks:
            x = block(x)
        return x

    def read(self, tokens: Float[Tensor, "B n d"]) -> Float[Tensor, "B n P"]:
        return self.head(self.norm(tokens))

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        initialise_layers(self, generator)
        for linear in (self.embed, self.head):
            xavier_uniform_(linear.weight, linear.in_features, linear.out_features, generator)
            linear.bias.zero_()
        self.mask_token.normal_(std=0.02, generator=generator)


def pixel_target(pixels: Float[Tensor, "B m P"], target: str) -> Float[Tensor, "B m P"]:
    """The target of the prediction; "normalised": (x - mean) / √(variance + 1e-6) per patch, variance unbiased."""
    if target == "pixels":
        return pixels
    mean, variance = pixels.mean(-1, keepdim=True), pixels.var(-1, keepdim=True)
    return (pixels - mean) / (variance + 1e-6).sqrt()


def from_target(
    prediction: Float[Tensor, "B n P"], pixels: Float[Tensor, "B n P"], target: str
) -> Float[Tensor, "B n P"]:
    """A prediction as pixels; a normalised one takes mean and deviation from the true patches: for pictures alone."""
    if target == "unknown":
        raise ConfigError(
            "the weights do not say whether their decoder predicts pixels or normalised pixels",
            allowed="target='pixels' (MAE's files called visualize) or 'normalised' (those called full)",
            next_step="load them with the config that says so",
        )
    if target == "pixels":
        return prediction
    mean, variance = pixels.mean(-1, keepdim=True), pixels.var(-1, keepdim=True)
    return prediction * (variance + 1e-6).sqrt() + mean
