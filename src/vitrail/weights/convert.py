"""Weights into the files of other libraries; refused where such a file would be read as another function."""

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
from vitrail.models.hybrid import HybridConfig
from vitrail.models.vit import ViTConfig
from vitrail.storage import write_whole
from vitrail.weights.bundle import save_bundle
from vitrail.weights.encoder import store_positions
from vitrail.weights.files.safe import to_bytes
from vitrail.weights.fit import fit
from vitrail.weights.origins import read_foreign
from vitrail.weights.origins.library import LIBRARIES, Library
from vitrail.weights.record import Record, Weights

HARMLESS = {
    "dropout",
    "drop_path",
    "layer_scale",
    "head_bias",
    "mask_token",
    "class_token",
    "positions_on",
    "position_resize",
    "image",
}
"""Starts and training's own, or what a file says in another way: no other outputs at the trained size."""


def convert(weights: Weights, out: Path, to: str) -> tuple[str, ...]:
    """Writes `weights` under the names of the library `to`; gives sentences about what the files do not say.

    `to` is a name of `LIBRARIES`, or "vitrail" for a bundle. `out` is a file (.npz or .safetensors) or a folder, as the
    library has them. WeightsError where it has no name for a tensor, or its code would compute something else.
    """
    if to == "vitrail":
        model = zoo.skeleton(weights.record.config)
        fit(model, weights.tensors, where="the weights")
        save_bundle(out, model, weights.record)
        return weights.record.notes
    library = LIBRARIES[to]
    if out.suffix not in library.suffixes:
        names = [f"a file {out.stem}{suffix}" if suffix else f"a folder {out.stem}" for suffix in library.suffixes]
        raise ConfigError(f"{out} for {to}", allowed=" or ".join(names))
    tensors, about, notes = foreign(weights, to, describe=not out.suffix)
    content = _npz(tensors) if out.suffix == ".npz" else to_bytes(tensors)
    write_whole(out if out.suffix else out / "model.safetensors", content)
    for name, data in about.items():
        write_whole(out / name, json.dumps(data, indent=2))
    return notes


def foreign(
    weights: Weights, to: str, *, describe: bool = True
) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """(the library's tensors, JSON files by name where it is to `describe` the model, what a reader must be told)."""
    library, record = LIBRARIES[to], weights.record
    config, state, notes = _with_positions(weights, library)
    if config.family not in library.writers:
        able = [name for name, other in LIBRARIES.items() if config.family in other.writers]
        raise WeightsError(f"{to} has no {config.family}", allowed=", ".join([*able, "vitrail"]))
    about = library.describe(config, record.preprocess, record.classes) if describe else {}
    kept = {key: tensor for key, tensor in state.items() if key not in library.drops}
    notes += [f"left out, as {to} has no name for it: {key}" for key in state if key not in kept]
    tensors = library.writers[config.family](kept, config)
    record = dataclasses.replace(record, config=config)
    return tensors, about, (*notes, *_unsaid(tensors, record, to, bool(about)))


def _with_positions(weights: Weights, library: Library) -> tuple[Any, dict[str, Tensor], list[str]]:
    """(config, tensors, notes): fixed sines and cosines become a table for a library that does not compute them."""
    config: Any = weights.record.config
    if library.keeps_sincos or not isinstance(config, ViTConfig) or not config.positions.startswith("sincos"):
        return config, dict(weights.tensors), []
    tensors, config = store_positions(weights.tensors, config, library.positions_on)
    return config, tensors, ["the fixed positions were written as a table"]


def _told(config: Any) -> dict[str, Any]:
    """The settings of this config that a reader can be told."""
    if not isinstance(config, ViTConfig | HybridConfig):
        encoder = getattr(config, "encoder", None)
        return (
            {"encoder": _told(encoder), "decoder_heads": config.decoder_heads, "target": config.target}
            if encoder
            else {}
        )
    words = ("heads", "activation", "norm_eps", "pool", *(("positions",) if config.positions == "none" else ()))
    return {name: value_of(config, name) for name in words} | {"image": list(config.image)}


def _unsaid(tensors: Mapping[str, Tensor], record: Record, to: str, described: bool) -> Iterator[str]:
    """Reads the tensors back. WeightsError where the config comes out another; a line for what a reader must be told."""
    config, library = record.config, LIBRARIES[to]
    told = (_told(config) if library.tellable or described else {}) or {"image": list(config.image)}
    try:
        back = read_foreign(tensors, where=f"the file for {to}", told=told)[1]
    except VitrailError:
        about = ", ".join(f"{name} {value}" for name in ("positions", "pool") if (value := getattr(config, name, "")))
        raise WeightsError(f"{to} has no {config.family} with {about}", next_step="nothing was written") from None
    for name, ours, theirs in _differing(config, back.config):
        raise WeightsError(
            f"a file of {to} means {name}={theirs!r}, this model has {name}={ours!r}",
            next_step=f"if it may be read so, load it with config={json.dumps({name: _plain(theirs)})}",
        )
    if described:
        words = [name for name, taken in library.untold.items() if told.get(name, taken) != taken]
    else:
        words = [name for name in library.tellable if name in told]
    yield from (f"the file does not say {name} = {told[name]}; tell whoever reads it" for name in words)
    for name in () if described else ("mean", "std", "resize", "crop_fraction", "interpolation"):
        ours, theirs = getattr(record.preprocess, name), getattr(back.preprocess, name)
        if ours != theirs:
            yield f"the file does not say that images want {name} {ours}, where {to}'s default is {theirs}"


def _differing(one: Any, other: Any) -> list[tuple[str, Any, Any]]:
    ours, theirs = settings(one), settings(other)
    pairs = [(name, ours[name], theirs.get(name)) for name in ours if name not in HARMLESS]
    return [pair for pair in pairs if pair[1] != pair[2] and not _differ_harmlessly(pair[1], pair[2])]


def _plain(value: Any) -> Any:
    return configs.to_dict(value) if dataclasses.is_dataclass(value) else value


def _differ_harmlessly(one: Any, other: Any) -> bool:
    return dataclasses.is_dataclass(one) and dataclasses.is_dataclass(other) and not _differing(one, other)


def _npz(tensors: Mapping[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{name: _array(tensor) for name, tensor in tensors.items()})  # pyrefly: ignore[bad-argument-type]
    return buffer.getvalue()


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # as JAX writes it
        return tensor.view(torch.int16).numpy().view("V2")
    return tensor.detach().cpu().numpy()
