"""Plain ViTs and students of two heads: sizes, heads and positions from names and shapes."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vitrail import config as configs
from vitrail.errors import WeightsError
from vitrail.models.deit import DeiTConfig
from vitrail.models.extras import settings
from vitrail.models.positions import ROTARIES
from vitrail.models.vit import ViTConfig
from vitrail.weights.name_tables import Row, count, one_of_ours, rows_there
from vitrail.weights.origin import SHAPES, Fields, Shapes, Style, Tensors, in_lists

USE_TIMM = 'load it by its name in timm: vitrail.load("timm:NAME")'
KINDS: dict[str, type[ViTConfig]] = {"vit": ViTConfig, "deit": DeiTConfig}
HEADS = {
    192: 3, 256: 4, 320: 5, 384: 6, 512: 8, 640: 10, 768: 12, 832: 13, 896: 14, 1024: 16, 1152: 16, 1280: 16, 1408: 16,
    1536: 24, 1664: 16, 1792: 16, 4096: 32,
}  # fmt: skip
"""By width, in all published ViTs of the origins whose files do not say it (1536 is DINOv2's giant)."""
SILENT = ("heads", "activation", "norm_eps", "position_resize", "pool", "rotary")
"""Settings that tensors often do not show, though they change the function."""


class ViTShapes(Shapes):
    def read_config(self, style: Style, tensors: Tensors, told: Fields, where: str) -> tuple[ViTConfig, list[str]]:
        told = told.get("encoder", told)  # of a masked autoencoder there may be the encoder alone
        seen = seen_in(style.table, tensors, where)
        kind = KINDS[seen.get("family", told.get("family", "vit"))]
        known = settings(kind()).keys() | {"family"}
        if not told.keys() <= known:  # before anything is missed for want of the word that was misspelt
            configs.from_dict(kind, in_lists(told), where=where)
        if not style.biases_free:
            seen["qkv_bias"] = True
        if seen.get("final_norm") == "pooled":  # a norm behind the pooling is there for the mean
            seen.setdefault("pool", "mean")
        seen |= positions_of(tensors, style.table, seen, {**style.habits, **seen, **told}, where)
        found = with_heads({**style.habits, **seen, **told}, where)
        assumed = {name: found[name] for name in SILENT if name in found and name not in {*seen, *told}}
        if (
            seen["positions"] not in ("learned", told.get("positions")) and "rotary" not in told
        ):  # no table: of another kind
            assumed["positions"] = seen["positions"]
        found = {name: value for name, value in found.items() if name in known}
        return configs.from_dict(kind, in_lists(found), where=where), in_words(assumed)


SHAPES.register("vit", ViTShapes())


def in_words(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} {value}" for name, value in in_lists(values).items()]


def with_heads(found: dict[str, Any], where: str) -> dict[str, Any]:
    """The fields with heads: those given, or those of all published models of the width. WeightsError for another width."""
    if "heads" not in found and found["width"] not in HEADS:
        raise WeightsError(
            f"{where} does not say its heads, and no published model is {found['width']} wide",
            next_step='say them: config={"heads": …}',
        )
    return {"heads": HEADS.get(found["width"]), **found}


def seen_in(table: Sequence[Row], tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """The fields of a config that names and shapes give; no number is read."""
    shapes = {name: tensor.to("meta") for name, tensor in tensors.items()}
    rows = rows_there(table, shapes)
    ours = {row.ours: one_of_ours(row, shapes, where) for row in rows}
    shared = Counter(row.theirs for row in rows)  # a name that stands in two rows tells nothing
    seen: dict[str, Any] = {row.when[0]: row.when[1] for row in rows if row.when and shared[row.theirs] == 1}
    if any(row.layout == "patch rows" and shapes[row.theirs[0]].ndim == 2 for row in rows):  # SigLIP 2, any grid
        seen["position_resize"] = "bilinear-antialias"
    kernels = [row for row in rows if row.layout == "qkv" and shapes[row.theirs[0]].ndim == 3]
    if kernels:  # D A d
        seen["heads"] = shapes[kernels[0].theirs[0]].shape[1]
    return {**sizes(ours), **seen}


def sizes(ours: Mapping[str, Tensor]) -> dict[str, Any]:
    """A config's fields from the shapes of our own names."""
    width, channels, p, q = ours["patch_embed.weight"].shape
    hidden = ours["blocks.0.mlp.fc2.weight"].shape[1]
    found: dict[str, Any] = {
        "width": width,
        "depth": count(ours, "blocks."),
        "channels": channels,
        "patch": (p, q),
        "mlp_width": hidden,
        "class_token": "cls_token" in ours,
        "registers": ours["registers"].shape[1] if "registers" in ours else 0,
        "mask_token": "mask_token" in ours,
        "pre_norm": "pre_norm.weight" in ours,
        "projection": len(ours.get("projection.weight", ())),
        "layer_scale": 1.0 if "blocks.0.ls1.gamma" in ours else 0.0,
        "qkv_bias": "blocks.0.attn.qkv.bias" in ours,
        "qk_norm": "blocks.0.attn.q_norm.weight" in ours,
        "pre_logits": len(ours.get("pre_logits.weight", ())),
        "classes": len(ours.get("head.weight", ours.get("head.label.weight", ()))),
    }
    if ours["blocks.0.mlp.fc1.weight"].shape[0] == 2 * hidden:
        found["activation"] = "swiglu"
    if "blocks.0.mlp.norm.weight" in ours:
        found["inner_norm"] = "both" if "blocks.0.attn.norm.weight" in ours else "mlp"
    if found["qk_norm"]:
        found["heads"] = width // len(ours["blocks.0.attn.q_norm.weight"])
    if "attention_pool.probe" in ours:
        found["pool"] = "map"
        behind = len(ours["attention_pool.mlp.fc1.weight"])
        found["pool_mlp_width"] = 0 if behind == len(ours["blocks.0.mlp.fc1.weight"]) else behind
    elif "head.weight" in ours and not found["pre_logits"] and ours["head.weight"].shape[1] == 2 * width:
        found["pool"] = "cls-mean"
    elif not found["class_token"]:
        found["pool"] = "mean"
    return found


def positions_of(
    tensors: Mapping[str, Tensor], table: Sequence[Row], seen: Mapping[str, Any], found: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Kind of positions, image size, and which prefix tokens the table has rows for.

    A table of M rows is a square grid behind all prefix tokens, behind the class token, or without any: the one that
    fits, or the one that the image size (if that was told) leaves.
    """
    p, q = found["patch"]
    tables = [(row.theirs[0], row.layout) for row in table if row.ours == "positions.table"]
    name, layout = tables[0] if tables else ("positions", "")
    if name not in tensors:
        kind = found.get("positions", "rotary" if found.get("rotary") else "learned")
        if kind == "learned":
            raise WeightsError(
                f"{where} has no {name}: it is lost, or its model has rotary, relative or no positions",
                next_step='keep its config.json beside it, or say the kind: config={"rotary": "rope-vit"}, '
                f'or config={{"positions": "none"}}; rotary kinds are {", ".join(ROTARIES)}',
            )
        return {"positions": kind, "image": tuple(max(1, round(224 / size)) * size for size in (p, q))}
    rows = tensors[name].shape[-2] if tensors[name].ndim == (2 if layout == "table" else 3) else 0
    prefixes = {"all": seen["class_token"] + seen["registers"], "class": int(seen["class_token"]), "patches": 0}
    if "positions_on" in found:
        prefixes = {found["positions_on"]: prefixes[found["positions_on"]]}
    fits: dict[int, tuple[str, tuple[int, int]]] = {}
    for on, prefix in prefixes.items():
        side = math.isqrt(max(0, rows - prefix))
        grid = (found["image"][0] // p, found["image"][1] // q) if "image" in found else (side, side)
        if grid[0] > 0 and grid[0] * grid[1] == rows - prefix:
            fits.setdefault(prefix, (on, grid))
    if len(fits) != 1:
        what = "more than one grid" if fits else "no square grid" if "image" not in found else "not the image's grid"
        raise WeightsError(
            f"{where}: {name} has {rows} rows, which fit {what} of {p}×{q} patches",
            next_step='say the size: config={"image": [height, width]}',
        )
    on, grid = next(iter(fits.values()))
    return {"positions": "learned", "positions_on": on, "image": (grid[0] * p, grid[1] * q)}
