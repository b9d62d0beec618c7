"""The Vision Transformer: "An Image is Worth 16x16 Words" (arXiv 2010.11929), section 3.1.

Read `ViT.place` (equation 1), `ViT.encode` (equations 2 and 3, the blocks of `layers.py`) and `ViT.pool` (equation 4).
`extras.py` has the additions of later methods and of published weights.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from einops import repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vitrail.errors import ConfigError
from vitrail.models.backbone import FAMILIES, Backbone, ModelConfig, Stage
from vitrail.models.checks import Grid, at_least, patch_grid, probabilities
from vitrail.models.extras import PLAIN, Extras
from vitrail.models.features import Features
from vitrail.models.initialise import initialise_vit
from vitrail.models.layers import AttentionPool, Block, PatchEmbed, dropout, make_head
from vitrail.models.merging import encode_merged
from vitrail.models.positions import PositionKind, make_positions, make_rotation


@dataclass(frozen=True, kw_only=True)
class ViTConfig(ModelConfig):
    """A ViT. The defaults are ViT-B/16 of the paper (Table 1) at 224 pixels."""

    family: ClassVar[str] = "vit"
    width: int = 768
    """D, features of a token."""
    depth: int = 12
    """L, encoder blocks."""
    heads: int = 12
    mlp_width: int = 3072
    patch: tuple[int, int] = (16, 16)
    """Height and width of a patch in pixels."""
    image: tuple[int, int] = (224, 224)
    """Height and width the position table is made for. The model takes any size that the patch divides."""
    channels: int = 3
    classes: int = 1000
    """K outputs of the head; 0 leaves the head out, and `forward` gives the pooled features."""
    pool: Literal["cls", "mean", "map", "cls-mean"] = "cls"
    """The class token; the mean of the patches; a trained probe that attends to the patches (arXiv 2106.04560); or
    class token and mean side by side (DINOv2)."""
    positions: PositionKind = "learned"
    dropout: float = 0.0
    """After every dense layer except qkv, and after adding positions (paper B.1)."""
    extras: Extras = PLAIN

    def __post_init__(self) -> None:
        at_least(self, 1, "width", "depth", "heads", "mlp_width", "channels", "patch")
        at_least(self, 0, "classes")
        probabilities(self, "dropout")
        parts = {"sincos": 4, "sincos-mae": 4, "learned-2d": 2}.get(self.positions, 1)
        if self.positions == "rotary" or self.extras.rotary:
            parts = 4 * self.heads
        pool_heads = self.extras.pool_heads if self.pool == "map" else 0
        for what, number in (
            (f"{self.heads} heads", self.heads),
            (f"{pool_heads} pool_heads", pool_heads or 1),
            (f"positions={self.positions!r}", parts),
        ):
            if self.width % number:
                raise ConfigError(f"width = {self.width} with {what}", allowed=f"a multiple of {number}")
        if self.extras.merge and (self.positions in ("relative", "rotary") or self.extras.rotary):
            raise ConfigError(
                "merged tokens with relative or rotary positions: one token would have several places",
                allowed="learned or fixed positions",
            )
        if self.extras.positions_at != "stem" and (
            self.extras.merge or self.positions in ("none", "relative", "rotary")
        ):
            raise ConfigError(
                f"positions_at={self.extras.positions_at!r} with positions={self.positions!r}, merge={self.extras.merge}",
                allowed="learned or fixed positions, and no merged tokens",
            )
        if self.pool.startswith("cls") and self.extras.class_token is False:
            next_step = "use pool='mean' or leave class_token out"
            raise ConfigError(f"pool={self.pool!r} without a class token", next_step=next_step)
        if any(side % 2**self.extras.convs for side in self.patch):
            raise ConfigError(
                f"patch = {self.patch} behind {self.extras.convs} convolutions",
                allowed=f"multiples of {2**self.extras.convs}: each convolution halves the image",
            )
        patch_grid(self.image, self.patch)

    @property
    def grid(self) -> Grid:
        """Patch rows and columns (h, w) at `image`."""
        return self.grid_at(self.image)

    @property
    def multiple(self) -> int:
        return math.lcm(*self.patch)

    def grid_at(self, image: tuple[int, int]) -> Grid:
        return patch_grid(image, self.patch)

    @property
    def hides_patches(self) -> bool:
        return not self.extras.convs  # a convolution shows a patch its neighbours

    @property
    def exports_any_size(self) -> bool:
        # "dinov2" resizes by a factor that export would freeze, 2-D positions divide by rows - 1, relative ones have fixed offsets
        fixed = self.positions in ("learned-2d", "relative", "rotary") or bool(self.extras.rotary)
        return self.extras.position_resize != "dinov2" and not fixed

    @property
    def has_class_token(self) -> bool:
        return self.pool.startswith("cls") if self.extras.class_token is None else self.extras.class_token

    @property
    def prefix(self) -> int:
        """Tokens before the patches: class token first, then registers."""
        return self.has_class_token + self.extras.registers

    @property
    def positioned_prefix(self) -> int:
        """The number of those with rows in the learned table."""
        return {"all": self.prefix, "class": int(self.has_class_token), "patches": 0}[self.extras.positions_on]

    @property
    def pooled_width(self) -> int:
        """Features of an image, before pre_logits."""
        return self.width * (2 if self.pool == "cls-mean" else 1)

    @property
    def read_width(self) -> int:
        return self.extras.projection or self.extras.pre_logits or self.pooled_width


@FAMILIES.register("vit")
class ViT(Backbone[ViTConfig]):
    """The Vision Transformer. `vitrail.build` makes one with initialised weights; the constructor draws none."""

    Config = ViTConfig

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config, extras, width = config, config.extras, config.width
        self.patch_embed = PatchEmbed(
            config.patch, config.channels, width, bias=not extras.pre_norm, convs=extras.convs
        )
        self.cls_token = nn.Parameter(torch.empty(1, 1, width)) if config.has_class_token else None
        self.registers = nn.Parameter(torch.empty(1, extras.registers, width)) if extras.registers else None
        # a buffer: supervised training neither reads nor moves it
        self.register_buffer("mask_token", torch.empty(1, width) if extras.mask_token else None)
        prefix, own = config.prefix, config.positioned_prefix
        tables = [
            make_positions(config.positions, width, config.grid, prefix=prefix, own=own, resize=extras.position_resize)
            for _ in range(config.depth if extras.positions_at == "layers" else 1)
        ]
        self.positions = tables[0]
        self.layer_positions = nn.ModuleList(table for table in tables[1:] if table is not None)
        self.rotation = make_rotation(config.positions, extras, width // config.heads, prefix)
        self.drop = dropout(config.dropout)
        self.pre_norm = nn.LayerNorm(width, eps=extras.norm_eps) if extras.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(_block(config, index) for index in range(config.depth))
        self.norm = nn.LayerNorm(width, eps=extras.norm_eps) if extras.final_norm != "none" else nn.Identity()
        self.attention_pool = _attention_pool(config) if config.pool == "map" else None
        self.pre_logits = nn.Linear(config.pooled_width, extras.pre_logits) if extras.pre_logits else None
        unprojected = extras.pre_logits or config.pooled_width
        self.projection = nn.Linear(unprojected, extras.projection, bias=False) if extras.projection else nn.Identity()
        self.head: nn.Module = make_head(config.read_width, config.classes, normalise=extras.normalise)

    def embed(
        self, images: Float[Tensor, "B C H W"], masked: Bool[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """z_0 of the images. `masked` patches become the mask token (DINOv2)."""
        patches = self.patch_embed(images)
        if masked is not None:
            if self.mask_token is None:
                raise ConfigError("this model has no mask token", next_step="build it with mask_token=True")
            patches = torch.where(masked[..., None], self.mask_token, patches)
        return self.place(patches, self.patch_embed.grid(images))

    def place(
        self, patches: Float[Tensor, "B n D"], grid: Grid, at: Int[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Equation 1: z_0 = [x_class; x_p¹E; …; x_pᴺE] + E_pos. `at` numbers the patches if some are missing (MAE)."""
        before = [token for token in (self.cls_token, self.registers) if token is not None]
        z_0 = torch.cat([*(repeat(token, "1 P D -> B P D", B=patches.shape[0]) for token in before), patches], dim=1)
        if self.positions is not None:
            z_0 = z_0 + self.positions(grid, self.patch_embed.weight, at)
        return self.drop(z_0)

    def encode(
        self, z: Float[Tensor, "B N D"], grid: Grid, at: Int[Tensor, "B n"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """z_L of z_0, equations 2 and 3, and the norm of equation 4. `grid` and `at` as in `place`."""
        turns = self.rotation(grid, z, at) if self.rotation is not None else None
        z = self.pre_norm(z)
        if merge := self.config.extras.merge:
            z = encode_merged(self.blocks, z, merge, self.config.prefix)
        for number, block in enumerate(self.blocks if not merge else ()):
            if (again := self._positions_of(number)) is not None:
                z = z + again(grid, z, at)
            save = self.checkpoint_activations and torch.is_grad_enabled()
            z = checkpoint(block, z, turns, use_reentrant=False) if save else block(z, turns)
        return z if self.config.extras.final_norm == "pooled" else self.norm(z)

    def _positions_of(self, number: int) -> nn.Module | None:
        """The positions that a later block adds again; None in the paper's models. Table 8 has two columns with them."""
        if number and self.config.extras.positions_at == "shared":
            return self.positions
        return self.layer_positions[number - 1] if number and self.layer_positions else None

    def features(self, images: Float[Tensor, "B C H W"], masked: Bool[Tensor, "B n"] | None = None) -> Features:
        """All tokens after the final norm, for images of any height and width that the patch divides."""
        grid = self.patch_embed.grid(images)
        return Features(self.encode(self.embed(images, masked), grid), self.config.prefix, grid)

    def pool(self, features: Features) -> Float[Tensor, "B P"]:
        """y of equation 4, through pre_logits if there is one."""
        y = self._pooled(features)
        if self.config.extras.final_norm == "pooled":
            y = self.norm(y)
        return self.projection(torch.tanh(self.pre_logits(y)) if self.pre_logits is not None else y)

    def _pooled(self, features: Features) -> Float[Tensor, "B P"]:
        if self.config.pool == "cls":
            return features.cls
        if self.attention_pool is not None:
            return self.attention_pool(features.tokens if self.config.extras.pool_prefix else features.patches)
        mean = features.patches.mean(dim=1)
        return mean if self.config.pool == "mean" else torch.cat([features.cls, mean], dim=1)

    def stages(self) -> Sequence[Stage]:
        """Stem, one stage a block, head. The final norm belongs to the head, as in MAE's layer decay."""
        stem = [self.patch_embed, self.cls_token, self.registers, self.positions, self.pre_norm]
        head = [self.norm, self.attention_pool, self.pre_logits, self.projection, self.head]
        return [
            ("stem", [part for part in stem if part is not None]),
            *(
                (f"block {n + 1}", [block, *self.layer_positions[max(0, n - 1) : n]])
                for n, block in enumerate(self.blocks)
            ),
            ("head", [part for part in head if part is not None]),
        ]

    def initialise(self, generator: torch.Generator) -> None:
        """The original's start."""
        initialise_vit(self, generator)


def _block(config: ViTConfig, index: int) -> Block:
    drop_path = config.extras.drop_path * index / max(1, config.depth - 1)
    tokens = config.prefix + math.prod(config.grid) if config.positions == "relative" else 0
    sizes = (config.width, config.heads, config.mlp_width)
    return Block(*sizes, config.extras, drop=config.dropout, drop_path=drop_path, relative_tokens=tokens)


def _attention_pool(config: ViTConfig) -> AttentionPool:
    gated, extras = config.extras.gated, config.extras
    hidden = extras.pool_mlp_width or config.mlp_width * (2 if gated else 1)
    activation = "silu" if gated else extras.activation  # it has no gate of its own
    return AttentionPool(
        config.width, extras.pool_heads or config.heads, hidden, activation=activation, eps=extras.norm_eps
    )
