"""A published file, and what lies beside it and in its name, as Weights."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitrail.errors import WeightsError
from vitrail.weights import published
from vitrail.weights.files.index import INDEX, digest, read_shards
from vitrail.weights.files.readers import READERS, Content, read_any
from vitrail.weights.origins import read_foreign, timm_config, torchvision
from vitrail.weights.origins.table import Foreign
from vitrail.weights.record import Record, Told, Weights
from vitrail.weights.sidecars import Beside, beside


def read_file(path: Path, config: Told = None) -> Weights:
    """Tensors and record of a published file, or of a folder with one. `config` goes before what lies beside."""
    path = only_file(path)
    content = Content(read_shards(path)) if path.name.endswith(INDEX) else read_any(path)
    around = beside(path)
    given = config if isinstance(config, Mapping) else {}
    whole = None if isinstance(config, Mapping) else config
    named = {} if around.where else _by_name(path.name)
    told = {} if whole is not None else {**named, **around.config, **given}
    origin, foreign = read_foreign(content.tensors, where=str(path), config=whole, told=told, wrapped=content.wrapped)
    facts, theirs = published.known(path.name), torchvision.published(path.name)
    preprocess = dataclasses.replace(foreign.preprocess, **theirs.preprocess) if theirs else foreign.preprocess
    record = Record(
        config=foreign.config,
        preprocess=around.prepared(preprocess),
        classes=_classes(path.name, origin, foreign, around),
        source=f"{path.name} ({origin})",
        licence=around.licence or (theirs or facts or foreign).licence,
        training=published.augreg(path.name),
        notes=_notes(foreign, around, given, named, content.left),
        sha256=digest(path),
    )
    return Weights(foreign.tensors, record)


def only_file(path: Path) -> Path:
    """The path, or of a folder its one weights file; of many that an index lists, the index."""
    if not path.is_dir():
        return path
    files = sorted(file for file in path.iterdir() if file.is_file())
    indices = [file for file in files if file.name.endswith(INDEX)]
    found = [file for file in files if file.suffix in READERS]
    whole = [file for file in found if file.name == "model.safetensors"]
    safe = [file for file in indices if ".safetensors." in file.name]
    best = whole or safe or indices or found
    if len(best) != 1:
        names = f"{len(best)} weights files: " + ", ".join(file.name for file in best) if best else "no weights file"
        raise WeightsError(f"{path} holds no bundle, and {names}", next_step="name a run, a bundle or one file")
    return best[0]


def _by_name(name: str) -> dict[str, Any]:
    """Settings that only the name of a published file gives: what a masked autoencoder's decoder predicts; timm's architecture."""
    facts = published.known(name)
    if facts and facts.target:
        return {"target": facts.target}
    return timm_config.by_name(name) if name.startswith(("vit_", "coatnet_")) else {}


def _classes(name: str, origin: str, foreign: Foreign, around: Beside) -> tuple[str, ...]:
    """Names of the outputs: those beside; else ImageNet's for a thousand outputs of a file that is known to be of it."""
    outputs = getattr(foreign.config, "classes", 0)
    if around.classes:
        return around.classes if len(around.classes) == outputs else ()
    facts = published.known(name)
    imagenet = (
        origin == "torchvision"
        or name.startswith("maxvit_t-")
        or "imagenet2012" in name
        or (facts is not None and facts.data == "ImageNet-1k")
    )
    return published.imagenet_classes() if outputs == 1000 and imagenet else ()


def _notes(
    foreign: Foreign, around: Beside, given: Mapping[str, Any], named: Mapping[str, Any], left: tuple[str, ...]
) -> tuple[str, ...]:
    """Who said what: the file's names, the caller, what lies beside, else the origin's default."""
    beside_only = [name for name in around.config if name not in given]
    said = [note for note in foreign.said if not note.startswith("from the config given")]
    if given:
        said.append(f"from the config given: {', '.join(f'{name} {value}' for name, value in given.items())}")
    if named:
        said.append(f"from its file's name: {', '.join(name for name in named if name not in given)}")
    if beside_only:
        said.append(f"from {around.where} beside it: {', '.join(beside_only)}")
    if around.preprocess:
        said.append(f"preprocessing from {around.where} beside it")
    if left:
        said.append(f"left out: {', '.join(left)}")
    return tuple(said)
