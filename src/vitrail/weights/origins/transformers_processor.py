"""transformers' preprocessor_config.json and our Preprocess, both ways."""

from typing import Any

from vitrail.images.preprocess import Preprocess

_INTERPOLATIONS = {0: "nearest", 2: "bilinear", 3: "bicubic"}
"""By Pillow's numbers, which transformers writes."""


def read_processor(data: dict[str, Any]) -> dict[str, Any]:
    """An image processor of transformers as fields of Preprocess."""
    size, crop = read_size(data.get("size", 224)), data.get("crop_size")
    found: dict[str, Any] = {}
    if data.get("do_normalize", True) and "image_mean" in data:
        found |= {"mean": tuple(data["image_mean"]), "std": tuple(data["image_std"])}
    if data.get("resample") in _INTERPOLATIONS:
        found["interpolation"] = _INTERPOLATIONS[data["resample"]]
    if "max_num_patches" in data:  # SigLIP 2's NaFlex: any shape, here a square of as many patches
        side = int(data["max_num_patches"] ** 0.5) * data.get("patch_size", 16)
        return {**found, "size": (side, side), "resize": "squash", "crop_fraction": 1.0}
    if data.get("do_center_crop") and crop is not None:
        inner = read_size(crop)
        fraction = min(1.0, max(inner) / min(size))
        return {**found, "size": inner, "resize": "crop", "crop_fraction": fraction}
    if data.get("crop_pct"):
        return {**found, "size": size, "resize": "crop", "crop_fraction": data["crop_pct"]}
    shortest = isinstance(data.get("size"), dict) and "shortest_edge" in data["size"]
    return {**found, "size": size, "resize": "crop" if shortest else "squash", "crop_fraction": 1.0}


def describe_processor(preprocess: Preprocess) -> dict[str, Any]:
    """preprocessor_config.json for images that are prepared so."""
    height, width = preprocess.size
    about: dict[str, Any] = {
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
        "resample": next(number for number, name in _INTERPOLATIONS.items() if name == preprocess.interpolation),
    }
    if preprocess.resize == "crop" and height == width:
        edge = int(height / preprocess.crop_fraction + 1e-6)
        crop = {"do_center_crop": True, "crop_size": {"height": height, "width": width}}
        return {"image_processor_type": "BitImageProcessor", **about, "size": {"shortest_edge": edge}, **crop}
    return {"image_processor_type": "ViTImageProcessor", **about, "size": {"height": height, "width": width}}


def read_size(value: Any) -> tuple[int, int]:
    """(height, width) of a number, a pair, or an object that names its sides."""
    if isinstance(value, dict):
        side = value.get("shortest_edge")
        return (side, side) if side else (value["height"], value["width"])
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def write_size(sides: tuple[int, int]) -> int | list[int]:
    """One number for a square."""
    return sides[0] if sides[0] == sides[1] else list(sides)
