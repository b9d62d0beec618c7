"""facebookresearch/mae's files with decoders: "full" and "visualize". Its encoders alone and its fine-tuned ViTs are timm's.

A file says neither its heads (those of published widths are known) nor what the decoder predicts.
"""

from collections.abc import Iterator

from vitrail.weights.name_tables import Row, pairs
from vitrail.weights.origin import CROP, ORIGINS, Checkpoint, Origin, Style

LICENCE = "CC-BY-NC-4.0"
_PARTS = ("norm{n}", "attn.qkv", "attn.proj", "mlp.fc{n}")


def _half(ours: str, theirs: str, layers: dict[str, str]) -> Iterator[Row]:
    yield from pairs(f"{ours}.", theirs, layers)
    yield from pairs(f"{ours}.blocks.{{i}}.", f"{theirs}blocks.{{i}}.", _PARTS)
    yield Row(f"{ours}.positions.table", (f"{theirs}pos_embed",))


TABLE = (
    *_half("encoder", "", {"patch_embed": "patch_embed.proj", "norm": "norm"}),
    Row("encoder.cls_token", ("cls_token",)),
    *_half("decoder", "decoder_", {"embed": "embed", "norm": "norm", "head": "pred"}),
    Row("decoder.mask_token", ("mask_token",)),
)


def _published(name: str, target: str) -> Checkpoint:
    size = next(size for size in ("base", "large", "huge") if size in name)
    model = {"base": "vit-b/16", "large": "vit-l/16", "huge": "vit-h/14"}[size]
    return Checkpoint(name, model, "ImageNet-1k", LICENCE, config={"target": target})


ORIGIN = Origin(
    "mae",
    {
        "original": Style(
            TABLE,
            {"mask_token", "decoder_embed.weight", "decoder_pred.weight", "blocks.0.attn.qkv.weight"},
            {"norm_eps": 1e-6},
            CROP,
            f"{LICENCE} (facebookresearch/mae)",
            shapes="mae",
        )
    },
    suffixes=(".safetensors",),
    tellable=("encoder", "decoder_heads", "target"),
    published=(
        *(_published(f"mae_pretrain_vit_{size}_full.pth", "normalised") for size in ("base", "large", "huge")),
        *(_published(f"mae_visualize_vit_{size}.pth", "pixels") for size in ("base", "large", "large_ganloss")),
    ),
)
ORIGINS.register(ORIGIN.name, ORIGIN)
