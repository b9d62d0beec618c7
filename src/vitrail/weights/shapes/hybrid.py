"""Hybrids: a ResNet's tensors and a ViT's in one file; the grid from the number of positions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.models.hybrid import HybridConfig
from vitrail.models.zoo import skeleton
from vitrail.weights.name_tables import Row, rows_of, to_shapes
from vitrail.weights.origin import SHAPES, Fields, Shapes, Style, Tensors
from vitrail.weights.shapes import resnet, vit

_OF_THE_VIT = ("width", "depth", "heads", "mlp_width", "patch", "classes", "pool", "pre_logits")


class HybridShapes(Shapes):
    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[HybridConfig, list[str]]:
        of_resnet, of_vit = (_half(style.table, half) for half in ("resnet.", "vit."))
        seen = {name: value for name, value in vit.seen_in(of_vit, tensors, where).items() if name in _OF_THE_VIT}
        stem = resnet.sizes(to_shapes(of_resnet, tensors, where))
        stem.pop("classes")
        found = vit.with_heads({**style.habits, **seen, **stem, **told}, where)
        if "image" not in told:
            found["image"] = _image(to_shapes(of_vit, tensors, where), stem["depths"], seen["patch"], where)
        assumed = {name: found[name] for name in vit.SILENT if name in found and name not in {*seen, *told}}
        return configs.from_dict(HybridConfig, vit.in_lists(found), where=where), vit.in_words(assumed)

    def rows(self, style: Style, config: HybridConfig) -> list[Row]:
        return rows_of(style.table, skeleton(config).state_dict().keys(), config.vit)

    def complete(self, style: Style, tensors: dict[str, Tensor], config: HybridConfig) -> dict[str, Tensor]:
        """timm calls the root a stem only where stages follow it."""
        if config.depths:
            return tensors
        return {name.replace("backbone.stem.", "backbone."): tensor for name, tensor in tensors.items()}


SHAPES.register("hybrid", HybridShapes())


def _half(table: Sequence[Row], prefix: str) -> list[Row]:
    return [replace(row, ours=row.ours.removeprefix(prefix)) for row in table if row.ours.startswith(prefix)]


def _image(ours: Mapping[str, Tensor], depths: tuple[int, ...], patch: tuple[int, int], where: str) -> tuple[int, int]:
    patches = ours["positions.table"].shape[1] - ("cls_token" in ours)
    side, stride = math.isqrt(patches), 4 * 2 ** max(0, len(depths) - 1)
    if side * side != patches:
        raise WeightsError(
            f"{where}: {patches} positions make no square grid", next_step='say its size: config={"image": [H, W]}'
        )
    return (side * stride * patch[0], side * stride * patch[1])
