"""ResNets of BiT's kind: depths, widths, channels and classes from names and shapes."""

from typing import Any

from vitrail.models.resnet import ResNetConfig
from vitrail.weights.name_tables import count
from vitrail.weights.origin import SHAPES, Shapes, Tensors


class ResNetShapes(Shapes):
    kind = ResNetConfig

    def sizes(self, ours: Tensors) -> dict[str, Any]:
        stages = range(count(ours, "blocks."))
        root = ours["root.weight"]
        return {
            "depths": tuple(count(ours, f"blocks.{b}.") for b in stages),
            "widths": tuple(len(ours[f"blocks.{b}.0.conv3.weight"]) for b in stages),
            "root_width": len(root),
            "channels": root.shape[1],
            "classes": len(ours.get("head.bias", ())),
        }


RESNET = SHAPES.register("resnet", ResNetShapes())
