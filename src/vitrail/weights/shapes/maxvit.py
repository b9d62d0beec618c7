"""MaxViT: widths, depths, heads and windows from names and shapes."""

import re
from typing import Any

import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.models.maxvit import MaxViTConfig
from vitrail.weights.name_tables import count
from vitrail.weights.origin import SHAPES, Fields, Shapes, Style, Tensors

_MEAN, _BATCHES = "running_mean", "num_batches_tracked"


class MaxViTShapes(Shapes):
    """torch's counts of batches are left out, and written as 0."""

    kind = MaxViTConfig

    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[MaxViTConfig, list[str]]:
        if "stem.conv1.weight" in tensors and "stem.conv1.bias" not in tensors:
            raise WeightsError(
                f"{where} is a MaxViT that timm trained itself, not a port of Google's (maxvit_*_tf_*)",
                next_step='load it by its name in timm: vitrail.load("timm:NAME")',
            )
        return super().read_config(style, tensors, told, where)

    def sizes(self, ours: Tensors) -> dict[str, Any]:
        stages = range(count(ours, "blocks."))
        widths = tuple(len(ours[f"blocks.{b}.0.conv.shrink.weight"]) for b in stages)
        table = ours["blocks.0.0.attn_window.attn.table"]
        h, w = ((number + 1) // 2 for number in table.shape[1:])
        scale = 2 ** (len(stages) + 1)
        return {
            "depths": tuple(count(ours, f"blocks.{b}.") for b in stages),
            "widths": widths,
            "stem": (len(ours["stem.conv1.weight"]), len(ours["stem.conv2.weight"])),
            "channels": ours["stem.conv1.weight"].shape[1],
            "classes": len(ours.get("head.weight", ())),
            "pre_logits": len(ours.get("pre_logits.bias", ())),
            "head_width": widths[0] // len(table),
            "image": (h * scale, w * scale),
            # stored as they are, whatever image the model is then made for
            "bias_window": (h, w),
        }

    def heads(self, config: MaxViTConfig, name: str) -> int:
        stage = re.match(r"blocks\.(\d+)\.", name)
        return config.widths[int(stage[1])] // config.head_width if stage else 1

    def strip(self, style: Style, tensors: dict[str, Tensor], config: Any, where: str) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in tensors.items() if not name.endswith(_BATCHES)}

    def complete(self, style: Style, tensors: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        counted = [name for name in tensors if name.endswith(_MEAN)]
        return tensors | {name.replace(_MEAN, _BATCHES): torch.tensor(0) for name in counted}


SHAPES.register("maxvit", MaxViTShapes())
