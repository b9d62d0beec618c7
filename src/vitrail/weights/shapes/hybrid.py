"""Hybrids: a ResNet's tensors and a ViT's in one file; the grid from the number of positions."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from vitrail import config as configs
from vitrail.models.hybrid import HybridConfig
from vitrail.models.zoo import skeleton
from vitrail.weights.name_tables import Row, rows_of, to_shapes
from vitrail.weights.origin import SHAPES, Fields, Shapes, Style, Tensors, in_lists
from vitrail.weights.shapes import vit
from vitrail.weights.shapes.resnet import RESNET

_OF_THE_VIT = ("width", "depth", "heads", "mlp_width", "patch", "classes", "pool", "pre_logits")


class HybridShapes(Shapes):
    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[HybridConfig, list[str]]:
        of_resnet, of_vit = (_half(style.table, half) for half in ("resnet.", "vit."))
        every = vit.seen_in(of_vit, tensors, where)
        seen = {name: every[name] for name in _OF_THE_VIT if name in every}
        stem = RESNET.sizes(to_shapes(of_resnet, tensors, where))
        found = vit.with_heads({**style.habits, **stem, **seen, **told}, where)
        if "image" not in told:
            stride = 4 * 2 ** max(0, len(stem["depths"]) - 1)
            cells = {"patch": tuple(stride * size for size in seen["patch"])}
            found["image"] = vit.positions_of(tensors, of_vit, every, {**style.habits, **cells}, where)["image"]
        assumed = {name: found[name] for name in vit.SILENT if name in found and name not in {*seen, *told}}
        return configs.from_dict(HybridConfig, in_lists(found), where=where), vit.in_words(assumed)

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
