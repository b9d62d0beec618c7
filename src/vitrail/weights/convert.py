"""Weights into the files of other origins; refused where such a file would be read as another function."""

import dataclasses
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail import config as configs
from vitrail.errors import ConfigError, VitrailError, WeightsError
from vitrail.models import zoo
from vitrail.models.extras import settings, value_of
from vitrail.models.vit import ViTConfig
from vitrail.storage import write_whole
from vitrail.weights.bundle import NEXT, RECORD, save_bundle
from vitrail.weights.encoder import store_positions
from vitrail.weights.files.safe import to_bytes
from vitrail.weights.fit import fit
from vitrail.weights.origin import LATER, ORIGINS, Origin
from vitrail.weights.recognise import read_foreign
from vitrail.weights.record import Record, Weights

HARMLESS = {
    "dropout", "drop_path", "layer_scale", "head_bias", "mask_token", "class_token", "positions_on", "position_resize",
    "image",
}  # fmt: skip
"""Starts and training's own, or what a file says in another way: no other outputs at the trained size."""


def list_targets() -> tuple[str, ...]:
    """The origins whose files `convert` writes; and "vitrail", for a bundle."""
    return (*(name for name, origin in ORIGINS.items() if origin.suffixes), "vitrail")


def convert(weights: Weights, out: Path, to: str) -> tuple[str, ...]:
    """Writes `weights` under the names of the origin `to`; gives sentences about what the files do not say.

    `to` is one of `list_targets()`. `out` is a file (.npz or .safetensors) or a folder, as the origin has them.
    WeightsError where it has no name for a tensor, or its code would compute something else.
    """
    if to == "vitrail":
        model = zoo.skeleton(weights.record.config)
        fit(model, weights.tensors, where="the weights")
        save_bundle(out, model, weights.record)
        return weights.record.notes
    suffixes = ORIGINS[to].suffixes
    if not suffixes:
        raise ConfigError(f"files of {to} are read only", allowed=", ".join(list_targets()))
    if out.suffix not in suffixes:
        names = [f"a file {out.stem}{suffix}" if suffix else f"a folder {out.stem}" for suffix in suffixes]
        raise ConfigError(f"{out} for {to}", allowed=" or ".join(names))
    tensors, about, notes = rename(weights, ORIGINS[to], describe=not out.suffix)
    if not out.suffix:
        _refuse_strange(out, about)
    content = _npz(tensors) if out.suffix == ".npz" else to_bytes(tensors)
    write_whole(out if out.suffix else out / "model.safetensors", content)
    for name, data in about.items():
        write_whole(out / name, json.dumps(data, indent=2))
    return notes


def _refuse_strange(folder: Path, about: Mapping[str, Any]) -> None:
    """ConfigError for a folder with a bundle, or with JSON that would describe the new weights."""
    describing = (RECORD, NEXT, "model.json", "config.json", "preprocessor_config.json")
    if found := [name for name in describing if name not in about and (folder / name).exists()]:
        raise ConfigError(
            f"{folder} has {', '.join(found)}, which does not describe these", next_step="choose a new folder"
        )


def rename(
    weights: Weights, to: Origin, *, describe: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """(the origin's tensors, JSON files by name where it is to `describe` the model, what a reader must be told)."""
    record = weights.record
    config, state, notes = _with_positions(weights, to)
    style = to.style_for(config)
    if style is None:
        able = [name for name, other in ORIGINS.items() if other.suffixes and other.style_for(config)]
        raise WeightsError(f"{to.name} has no {config.family}", allowed=", ".join([*able, "vitrail"]))
    about = to.describe(style, config, record.preprocess, record.classes) if describe else {}
    kept = {key: tensor for key, tensor in state.items() if key not in to.drops}
    notes += [f"left out, as {to.name} has no name for it: {key}" for key in state if key not in kept]
    tensors = to.finish(style, to.write(kept, config, style), config)
    record = dataclasses.replace(record, config=config)
    return tensors, about, (*notes, *_unsaid(tensors, record, to, about))


def _with_positions(weights: Weights, to: Origin) -> tuple[Any, dict[str, Tensor], list[str]]:
    """(config, tensors, notes): fixed sines and cosines become a table for code that does not compute them."""
    config: Any = weights.record.config
    if to.keeps_sincos or not isinstance(config, ViTConfig) or not config.positions.startswith("sincos"):
        return config, dict(weights.tensors), []
    tensors, config = store_positions(weights.tensors, config, to.positions_on)
    return config, tensors, ["the fixed positions were written as a table"]


def _told(config: Any) -> dict[str, Any]:
    """The settings of this config that a reader can be told."""
    if hasattr(config, "decoder_heads"):
        return {"encoder": _told(config.encoder)} | {
            name: getattr(config, name) for name in ("decoder_heads", "target")
        }
    if not hasattr(config, "heads"):
        return {}
    words = ("heads", "activation", "norm_eps", "pool", *(("positions",) if config.positions == "none" else ()))
    told = {name: value_of(config, name) for name in words} | {"image": list(config.image)}
    extras = settings(config)
    normless = {"final_norm": "none"} if extras.get("final_norm") == "none" else {}
    return told | {name: extras[name] for name in LATER if extras.get(name)} | normless


def _sayable(config: Any, to: Origin, about: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that reach a reader: those in the JSON files, and those that the origin's users pass to its code."""
    told = _told(config)
    if "config.json" not in about:
        return {name: told[name] for name in ("image", *to.tellable) if name in told} or {"image": list(config.image)}
    facts = to.read_json(about["config.json"], Path("config.json"))
    return {**(facts.config if facts else {}), **{name: told[name] for name in to.untold if name in told}}


def _unsaid(tensors: Mapping[str, Tensor], record: Record, to: Origin, about: Mapping[str, Any]) -> Iterator[str]:
    """Reads the tensors back. WeightsError where the config comes out another; a line for what a reader must be told."""
    config, described = record.config, bool(about)
    told = _sayable(config, to, about)
    try:
        back = read_foreign(tensors, where=f"the file for {to.name}", told=told)[1]
    except VitrailError:
        parts = ", ".join(f"{name} {value}" for name in ("positions", "pool") if (value := getattr(config, name, "")))
        raise WeightsError(f"{to.name} has no {config.family} with {parts}", next_step="nothing was written") from None
    for name, ours, theirs in _differing(config, back.config):
        raise WeightsError(
            f"a file of {to.name} means {name}={theirs!r}, this model has {name}={ours!r}",
            next_step="nothing was written"
            if name in LATER
            else f"if it may be read so, load it with config={json.dumps({name: theirs}, default=configs.to_dict)}",
        )
    one, two = (getattr(getattr(it, "extras", None), "final_norm", "") for it in (config, back.config))
    if one != two:
        yield f"the file means a final norm on {two}, not on {one}: other patch features, the same answers"
    if described:
        words = [name for name, taken in to.untold.items() if told.get(name, taken) != taken]
    else:
        words = [name for name in to.tellable if name in told]
    facts = {name: getattr(record, name) for name in ("numeric", "threshold", "temperature", "least")}
    unsaid = {name: told[name] for name in words} | {name: value for name, value in facts.items() if value}
    yield from (f"the file does not say {name} = {value}; tell whoever reads it" for name, value in unsaid.items())
    for name in () if described else ("mean", "std", "resize", "crop_fraction", "interpolation"):
        ours, theirs = getattr(record.preprocess, name), getattr(back.preprocess, name)
        if ours != theirs:
            yield f"the file does not say that images want {name} {ours}, where {to.name}'s default is {theirs}"


def _differing(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    ours, theirs = ({**settings(it), **_rotary(it)} for it in (one, other))
    # the head reads a normed class token: before or after pooling makes no difference to that
    normed = all(it.get("pool") == "cls" and it.get("final_norm") != "none" for it in (ours, theirs))
    harmless = HARMLESS | ({"final_norm"} if normed else set())
    pairs = [(name, ours[name], theirs.get(name)) for name in ours if name not in harmless]
    return [(name, here, there) for name, here, there in pairs if not _alike(here, there)]


def _alike(one: Any, other: Any) -> bool:
    nested = dataclasses.is_dataclass(one) and dataclasses.is_dataclass(other)
    return not _differing(one, other) if nested else one == other


def _rotary(config: Any) -> dict[str, Any]:
    """The kind of rotary positions, which positions="rotary" alone implies."""
    return {"rotary": config.extras.rotary or "dinov3"} if getattr(config, "positions", "") == "rotary" else {}


def _npz(tensors: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: _array(tensor) for name, tensor in tensors.items()})  # pyrefly: ignore[bad-argument-type]
    return buffer.getvalue()


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # as JAX writes it
        return tensor.view(torch.int16).numpy().view("V2")
    return tensor.detach().cpu().numpy()
