"""ResNets of BiT's kind: depths, widths, channels and classes from names and shapes."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from vitrail import config as configs
from vitrail.models.resnet import ResNetConfig
from vitrail.weights.name_tables import count, to_shapes
from vitrail.weights.origin import SHAPES, Fields, Shapes, Style, Tensors
from vitrail.weights.shapes.vit import in_lists


class ResNetShapes(Shapes):
    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[ResNetConfig, list[str]]:
        found = {**style.habits, **sizes(to_shapes(style.table, tensors, where)), **told}
        return configs.from_dict(ResNetConfig, in_lists(found), where=where), []


SHAPES.register("resnet", ResNetShapes())


def sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """A config's fields from the shapes of our own names."""
    stages = range(count(ours, "blocks."))
    root = ours["root.weight"]
    return {
        "depths": tuple(count(ours, f"blocks.{b}.") for b in stages),
        "widths": tuple(len(ours[f"blocks.{b}.0.conv3.weight"]) for b in stages),
        "root_width": len(root),
        "channels": root.shape[1],
        "classes": len(ours.get("head.bias", ())),
    }
