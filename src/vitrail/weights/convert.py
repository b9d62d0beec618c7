"""Our weights in other people's files, refused where such a file would be read as another function."""

import dataclasses
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail import config as configs
from vitrail.errors import ConfigError, WeightsError, suggest
from vitrail.models import zoo
from vitrail.models.extras import settings, value_of
from vitrail.models.hybrid import HybridConfig
from vitrail.models.maxvit import MaxViTConfig
from vitrail.models.mbconv import GOOGLE, TORCHVISION
from vitrail.models.vit import ViTConfig
from vitrail.storage import write_whole
from vitrail.weights.bundle import save_bundle
from vitrail.weights.files.safe import to_bytes
from vitrail.weights.fit import fit
from vitrail.weights.origins import SOURCES, read_foreign, transformers_config
from vitrail.weights.origins.dialects import silent_words
from vitrail.weights.record import Record, Weights

JAX, TORCH = ".npz", ".safetensors"

# target -> family -> (source, style); "" is the source's first style
TARGETS: dict[str, dict[str, tuple[str, str]]] = {
    "google": {
        "vit": ("google", ""),
        "hybrid": ("hybrid", "published"),
        "resnet": ("bit", "big_transfer"),
        "maxvit": ("maxvit", "google"),
    },
    "big_vision": {"vit": ("big_vision", ""), "resnet": ("bit", "big_vision")},
    "timm": {
        "vit": ("timm", ""),
        "deit": ("timm", ""),
        "hybrid": ("hybrid", "timm"),
        "resnet": ("bit", "timm"),
        "maxvit": ("maxvit", "timm"),
    },
    "transformers": {
        "vit": ("transformers", ""),
        "deit": ("transformers", "DeiT"),
        "mae": ("mae", "transformers"),
        "resnet": ("bit", "transformers"),
    },
    "torchvision": {
        "vit": ("torchvision", ""),
        "maxvit": ("maxvit", "torchvision"),
    },
    "dinov2": {"vit": ("dinov2", "")},
    "mae": {"mae": ("mae", "original")},
    "vitrail": {},
}
TELLABLE: dict[str, tuple[str, ...]] = {
    "timm": ("heads", "activation", "norm_eps", "pool", "positions", "dialect"),
    "torchvision": ("heads", "norm_eps"),
    "dinov2": ("heads",),
    "mae": ("encoder", "decoder_heads", "target"),
}
"""What its users tell each library when they build a model; config.json says it for transformers, and JAX's files all."""
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
    """Writes `weights` under the names of `to`; gives sentences about what the file cannot say.

    `google` and `big_vision` are .npz files, `vitrail` and `transformers` folders, the others .safetensors files.
    WeightsError where the target has no name for a tensor or its code would compute something else.
    """
    if to not in TARGETS:
        raise ConfigError(f"--to {to}", allowed=", ".join(TARGETS), next_step=suggest(to, TARGETS))
    if to == "vitrail":
        model = zoo.skeleton(weights.record.config)
        fit(model, weights.tensors, where="the weights")
        save_bundle(out, model, weights.record)
        return weights.record.notes
    tensors, about, notes = foreign(weights, to)
    if to == "transformers":
        files = {"model.safetensors": to_bytes(tensors)}
        files |= {name: json.dumps(data, indent=2).encode() for name, data in about.items()}
        _write(out, files)
    else:
        wanted = JAX if to in ("google", "big_vision") else TORCH
        if out.suffix != wanted:
            raise ConfigError(f"{out} for {to}", allowed=f"a file {out.stem}{wanted}")
        _write(out.parent, {out.name: _npz(tensors) if wanted == JAX else to_bytes(tensors)})
    return notes


def foreign(weights: Weights, to: str) -> tuple[dict[str, Tensor], dict[str, Any], tuple[str, ...]]:
    """(their tensors, files of JSON beside, what has to be told to whoever reads them)."""
    config: Any = weights.record.config  # of a family that the target has, which the table says
    if config.family not in TARGETS[to]:
        able = [name for name, families in TARGETS.items() if config.family in families]
        raise WeightsError(f"{to} has no {config.family}", allowed=", ".join([*able, "vitrail"]))
    name, style = TARGETS[to][config.family]
    about: dict[str, Any] = {}
    _same_dialect(config, to)
    if (name, style) == ("bit", "big_vision") and config.order == "post":
        style = "big_vision v1"
    if name == "transformers":
        style = transformers_config.style_of(config)
    if to == "transformers":
        about = transformers_config.files_beside(config, weights.record.preprocess, weights.record.classes)
    state = {key: tensor for key, tensor in weights.tensors.items() if (key, to) != ("mask_token", "timm")}
    tensors = SOURCES[name].write(state, config, style=style)
    if to == "transformers":
        tensors = transformers_config.prefixed(tensors, config)
    told = _told(config) if to in TELLABLE or to == "transformers" else {}
    left = [f"left out, as {to} has no name for it: {key}" for key in weights.tensors if key not in state]
    return tensors, about, (*left, *_unsaid(tensors, weights.record, to, told))


def _same_dialect(config: Any, to: str) -> None:
    """WeightsError for a MaxViT that the target's code would compute otherwise, whatever its tensors are called."""
    theirs = {"google": GOOGLE, "torchvision": TORCHVISION}.get(to)
    if isinstance(config, MaxViTConfig) and theirs is not None:
        differing = [f"{name} {other!r} and not {ours!r}" for name, ours, other in _differing(config.dialect, theirs)]
        if differing:
            raise WeightsError(f"a MaxViT of {to} has {', '.join(differing)}", next_step="nothing was written")


def _told(config: Any) -> dict[str, Any]:
    """What a reader can be told, as this config has it."""
    if isinstance(config, MaxViTConfig):
        words = silent_words(config)
        return {"dialect": {word: getattr(config.dialect, word) for word in words}} if words else {}
    if not isinstance(config, ViTConfig | HybridConfig):
        encoder = getattr(config, "encoder", None)
        return (
            {"encoder": _told(encoder), "decoder_heads": config.decoder_heads, "target": config.target}
            if encoder
            else {}
        )
    words = ("heads", "activation", "norm_eps", "pool", *(("positions",) if config.positions == "none" else ()))
    return {name: value_of(config, name) for name in words} | {"image": list(config.image)}


def _unsaid(tensors: Mapping[str, Tensor], record: Record, to: str, told: dict[str, Any]) -> Iterator[str]:
    """Reads back what would be written. WeightsError where the config comes out another; a line for what must be told."""
    config: Any = record.config
    told = told or {"image": list(config.image)}
    try:
        back = read_foreign(tensors, where="it", told=told)[1]
    except WeightsError as error:
        why = textwrap.shorten(error.found, 200, placeholder=" …")
        raise WeightsError(f"{to} has no such {config.family} ({why})", next_step="nothing was written") from None
    for name, ours, theirs in _differing(config, back.config):
        raise WeightsError(
            f"a file of {to} means {name}={theirs!r}, this model has {name}={ours!r}",
            next_step=f"if it may be read so, convert with --config '{json.dumps({name: _plain(theirs)})}'",
        )
    if to == "transformers":
        return
    for name in TELLABLE.get(to, ()):
        if name in told:
            yield f"the file does not say {name} = {told[name]}; tell whoever reads it"
    for name in ("mean", "std", "resize", "crop_fraction", "interpolation"):
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
    import io

    buffer = io.BytesIO()
    np.savez(buffer, **{name: _array(tensor) for name, tensor in tensors.items()})  # pyrefly: ignore[bad-argument-type]
    return buffer.getvalue()


def _array(tensor: Tensor) -> np.ndarray:
    if tensor.dtype == torch.bfloat16:  # as JAX writes it
        return tensor.view(torch.int16).numpy().view("V2")
    return tensor.detach().cpu().numpy()


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Each file whole or not at all. Raises StorageError that names it."""
    for name, content in files.items():
        write_whole(folder / name, content)
