"""The Vision Transformer: "An Image is Worth 16x16 Words" (arXiv 2010.11929), and what later weights add to it.

Read `ViT.features` and `ViT.forward`: the paper's section 3.1 is those few lines. Defaults are the paper's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail.errors import ConfigError
from vitrail.models.checks import at_least, patch_grid, probabilities
from vitrail.models.features import Features
from vitrail.models.layers import (
    AttentionPool,
    Block,
    Head,
    PatchEmbed,
    dropout,
    initialise_layers,
    lecun_normal_,
    zero_head,
)
from vitrail.models.positions import Grid, LearnedPositions, LearnedPositions2d, PositionKind, Resize, SinCosPositions


@dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """All that makes one ViT differ from another; the defaults are ViT-B/16 of the paper at 224 pixels."""

    family: Literal["vit"] = "vit"
    width: int = 768
    """D, features of a token."""
    depth: int = 12
    """L, encoder blocks."""
    heads: int = 12
    mlp_width: int = 3072
    patch: tuple[int, int] = (16, 16)
    image: tuple[int, int] = (224, 224)
    """Height and width the position table is made for; the model itself takes any size the patch divides."""
    channels: int = 3
    classes: int = 1000
    """K outputs of the head; 0 leaves the head out, and `forward` gives the pooled features."""
    pool: Literal["cls", "mean", "map", "cls-mean"] = "cls"
    """The class token; the mean of the patches; a learned probe that attends to the patches; or class token and mean
    side by side (DINOv2's classifiers)."""
    class_token: bool | None = None
    """None: where `pool` reads it. True with `mean` is MAE's fine-tuning."""
    registers: int = 0
    """Learned tokens between class token and patches (DINOv2)."""
    mask_token: bool = False
    """Keeps the vector that stood for hidden patches in pre-training (DINOv2): `features(images, masked)` reads it."""
    positions: PositionKind = "learned"
    positions_on: Literal["all", "class", "patches"] = "all"
    """What the learned 1-D table has entries for, beside the patches: every prefix token, the class token, none."""
    position_resize: Resize = "bilinear"
    """How the learned table follows a new grid; rows of positions.RESIZES."""
    activation: Literal["gelu", "gelu-tanh", "swiglu"] = "gelu"
    norm_eps: float = 1e-6
    final_norm: Literal["tokens", "pooled"] = "tokens"
    """Equation 4's LN: on all tokens before pooling, or on the pooled vector (MAE's fc_norm)."""
    qk_norm: bool = False
    qkv_bias: bool = True
    """Whether q, k and v have biases."""
    layer_scale: float = 0.0
    """Start value of a learned factor per channel on each branch; 0 leaves it out."""
    pre_logits: int = 0
    """Width of a dense + tanh layer before the head, as in the paper's pre-training; 0 leaves it out."""
    head_bias: float = 0.0
    """Start value of the head's bias; -log K suits sigmoid losses."""
    dropout: float = 0.0
    """After every dense layer but qkv, and after adding positions (paper B.1)."""
    drop_path: float = 0.0
    """Stochastic depth of the last block; earlier ones rise to it linearly from 0."""

    def __post_init__(self) -> None:
        at_least(self, 1, "width", "depth", "heads", "mlp_width", "channels")
        at_least(self, 0, "classes", "registers", "pre_logits")
        probabilities(self, "dropout", "drop_path")
        parts = {"sincos": 4, "sincos-mae": 4, "learned-2d": 2}.get(self.positions, 1)
        for what, number in ((f"{self.heads} heads", self.heads), (f"positions={self.positions!r}", parts)):
            if self.width % number:
                raise ConfigError(f"width = {self.width} with {what}", allowed=f"a multiple of {number}")
        if self.pool.startswith("cls") and self.class_token is False:
            next_step = "use pool='mean' or leave class_token out"
            raise ConfigError(f"pool={self.pool!r} without a class token", next_step=next_step)
        if min(self.patch) < 1:
            raise ConfigError(f"patch = {self.patch}", allowed="1 pixel or more")
        patch_grid(self.image, self.patch)

    @property
    def grid(self) -> Grid:
        """Patch rows and columns (h, w) at `image`."""
        return patch_grid(self.image, self.patch)

    @property
    def gated(self) -> bool:
        """Whether the MLPs of the blocks multiply two halves of their first layer."""
        return self.activation == "swiglu"

    @property
    def has_class_token(self) -> bool:
        return self.pool.startswith("cls") if self.class_token is None else self.class_token

    @property
    def pooled_width(self) -> int:
        """Features of an image, before pre_logits."""
        return self.width * (2 if self.pool == "cls-mean" else 1)

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token first, then registers."""
        return self.has_class_token + self.registers

    @property
    def positioned_prefix(self) -> int:
        """How many of them the learned table has entries for."""
        return {"all": self.prefix, "class": int(self.has_class_token), "patches": 0}[self.positions_on]


class ViT(nn.Module):
    """Backbone of the ViT family. `zoo.build` makes one with initialised weights; the constructor alone draws none."""

    checkpoint_activations = False
    """Keep no activations inside the blocks; recompute them in the backward pass. The outputs are the same bits."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.patch_embed = PatchEmbed(config.patch, config.channels, width)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.has_class_token else None
        self.registers = nn.Parameter(torch.empty(1, config.registers, width)) if config.registers else None
        # a buffer: supervised training neither reads nor moves it
        self.register_buffer("mask_token", torch.empty(1, width) if config.mask_token else None)
        self.positions = _positions(config)
        self.drop = dropout(config.dropout)
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=config.norm_eps)
        self.attention_pool = _attention_pool(config) if config.pool == "map" else None
        self.pre_logits = nn.Linear(config.pooled_width, config.pre_logits) if config.pre_logits else None
        pooled = config.pre_logits or config.pooled_width
        self.head = Head(pooled, config.classes) if config.classes else nn.Identity()

    def embed(
        self, images: Float[Tensor, "B C H W"], masked: Bool[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Equation 1: z_0 = [x_class; x_p¹E; …; x_pᴺE] + E_pos, with dropout. `masked` patches become the mask token."""
        patches = self.patch_embed(images)
        if masked is not None:
            if self.mask_token is None:
                raise ConfigError("this model has no mask token", next_step="build it with mask_token=True")
            patches = torch.where(masked[..., None], self.mask_token, patches)
        return self.place(patches, self.patch_embed.grid(images))

    def place(
        self, patches: Float[Tensor, "B n D"], grid: Grid, at: Int[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Embedded patches with their positions, behind the prefix tokens. `at` numbers the patches where some of the
        grid are missing (MAE's encoder sees a quarter of them).
        """
        prefix: list[Tensor] = [token for token in (self.cls_token, self.registers) if token is not None]
        if self.positions is not None:
            table = self.positions(grid, self.patch_embed.weight)
            known = self.positions.prefix  # the table's first rows belong to prefix tokens
            patches = patches + (table[:, known:] if at is None else table[0, known:][at])
            if known:
                prefix = [_add_to_first(torch.cat(prefix, dim=1), table[:, :known])]
        tokens = [token.expand(len(patches), -1, -1) for token in prefix]
        return self.drop(torch.cat([*tokens, patches], dim=1) if tokens else patches)

    def encode(self, x: Float[Tensor, "B N D"]) -> Float[Tensor, "B N D"]:
        """z_L of z_0: equations 2 to 4."""
        for block in self.blocks:  # (2) (3)
            save = self.checkpoint_activations and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if save else block(x)
        return self.norm(x) if self.config.final_norm == "tokens" else x  # (4)

    def features(self, images: Float[Tensor, "B C H W"], masked: Bool[Tensor, "B n"] | None = None) -> Features:
        """z_L after the final norm: all tokens, for images of any height and width the patch divides."""
        return Features(self.encode(self.embed(images, masked)), self.config.prefix, self.patch_embed.grid(images))

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """y of equation 4: one vector an image, through pre_logits if there is one; head and probes read it."""
        if self.attention_pool is not None:
            pooled = self.attention_pool(features.patches)
        elif self.config.pool == "cls-mean":
            pooled = torch.cat([features.cls, features.patches.mean(dim=1)], dim=1)
        else:
            pooled = features.cls if self.config.pool == "cls" else features.patches.mean(dim=1)
        if self.config.final_norm == "pooled":
            pooled = self.norm(pooled)
        return torch.tanh(self.pre_logits(pooled)) if self.pre_logits is not None else pooled

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B K"]:
        return self.head(self.pool(self.features(images)))

    def stages(self) -> Sequence[tuple[str, Sequence[nn.Module | nn.Parameter]]]:
        """Stem, one stage a block, head. The final norm belongs to the head, as in MAE's layer decay."""
        stem = [self.patch_embed, self.cls_token, self.registers, self.positions]
        head = [self.norm, self.attention_pool, self.pre_logits, self.head]
        return [
            ("stem", [part for part in stem if part is not None]),
            *((f"block {number}", [block]) for number, block in enumerate(self.blocks, 1)),
            ("head", [part for part in head if part is not None]),
        ]

    @torch.no_grad()
    def initialise(self, generator: torch.Generator) -> None:
        """The original's start: the same generator state gives the same bits."""
        initialise_layers(self, generator)
        if self.cls_token is not None:
            self.cls_token.zero_()
        if self.registers is not None:
            self.registers.normal_(std=1e-6, generator=generator)
        if isinstance(self.positions, LearnedPositions | LearnedPositions2d):
            self.positions.initialise(generator)
        if self.mask_token is not None:
            self.mask_token.zero_()
        if self.pre_logits is not None:
            lecun_normal_(self.pre_logits.weight, generator)
            self.pre_logits.bias.zero_()
        self.initialise_head()

    def initialise_head(self) -> None:
        """A zero head, in pre-training and fine-tuning alike (section 3.2): at the first step all classes are equal."""
        zero_head(self.head, self.config.head_bias)


def _positions(config: ViTConfig) -> nn.Module | None:
    if config.positions == "learned":
        return LearnedPositions(
            config.width, config.grid, prefix=config.positioned_prefix, resize=config.position_resize
        )
    if config.positions == "learned-2d":
        return LearnedPositions2d(config.width, config.grid)
    if config.positions in ("sincos", "sincos-mae"):
        return SinCosPositions(config.width, config.positions)
    return None  # none at all, or relative ones inside attention


def _block(config: ViTConfig, index: int) -> Block:
    return Block(
        config.width,
        config.heads,
        config.mlp_width,
        activation=config.activation,
        eps=config.norm_eps,
        drop=config.dropout,
        drop_path=config.drop_path * index / max(1, config.depth - 1),
        layer_scale=config.layer_scale,
        qk_norm=config.qk_norm,
        qkv_bias=config.qkv_bias,
        relative_tokens=config.prefix + config.grid[0] * config.grid[1] if config.positions == "relative" else 0,
    )


def _attention_pool(config: ViTConfig) -> AttentionPool:
    # behind gated blocks its MLP is as wide as both halves of theirs, and has no gate itself (timm)
    hidden, activation = (2 * config.mlp_width, "silu") if config.gated else (config.mlp_width, config.activation)
    return AttentionPool(config.width, config.heads, hidden, activation=activation, eps=config.norm_eps)


def _add_to_first(tokens: Float[Tensor, "1 P D"], table: Float[Tensor, "1 p D"]) -> Float[Tensor, "1 P D"]:
    """tokens + table, where the table may be shorter: register tokens can go without positions."""
    known = table.shape[1]
    added = tokens[:, :known] + table
    return added if known == tokens.shape[1] else torch.cat([added, tokens[:, known:]], dim=1)
