"""A published file, and what stands in its name and in JSON files next to it, as Weights."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vitrail.config import read_object
from vitrail.errors import VitrailError, WeightsError
from vitrail.weights.files.hub import check_blob
from vitrail.weights.files.index import INDEX, digest, read_content
from vitrail.weights.files.readers import READERS
from vitrail.weights.imagenet import imagenet_classes
from vitrail.weights.origin import ORIGINS, Checkpoint, Facts, Foreign, Origin
from vitrail.weights.recognise import find_origin
from vitrail.weights.record import Record, Told, Weights


def read_file(path: Path, config: Told = None) -> Weights:
    """Tensors and record of a published file, or of a folder with one. `config` goes before the JSON file next to it."""
    path = only_file(path)
    content = read_content(path)
    sidecar = read_sidecar(path)  # first: it may name a model that is none here, and say why
    origin = find_origin(content.tensors.keys(), str(path))
    named = read_name(origin, path.name)
    given, whole = (config, None) if isinstance(config, Mapping) else ({}, config)
    from_name = {} if sidecar.where else {name: value for name, value in named.config.items() if name not in given}
    told = {} if whole is not None else {**from_name, **sidecar.config, **given}
    foreign = origin.read(content.tensors, where=str(path), config=whole, told=told, wrapped=content.wrapped)
    sha256 = digest(path)
    check_blob(path, sha256)
    record = Record(
        config=foreign.config,
        preprocess=dataclasses.replace(foreign.preprocess, **{**named.preprocess, **sidecar.preprocess}),
        classes=_classes(foreign, sidecar, named),
        source=f"{path.name} ({origin.name})",
        licence=sidecar.licence or named.licence or foreign.licence,
        training=dict(named.training),
        notes=tuple(_notes(foreign, sidecar, given, from_name, content.left)),
        sha256=sha256,
    )
    return Weights(foreign.tensors, record)


def only_file(path: Path) -> Path:
    """The path, or of a folder its one weights file; of many that an index lists, the index."""
    if not path.is_dir():
        return path
    refuse_folds(path)
    files = sorted(file for file in path.iterdir() if file.is_file())
    indices = [file for file in files if file.name.endswith(INDEX)]
    found = [file for file in files if file.suffix in READERS]
    whole = [file for file in found if file.name == "model.safetensors"]
    whole = whole or [file for file in found if file.name == "open_clip_model.safetensors"]
    safe = [file for file in indices if ".safetensors." in file.name]
    best = whole or safe or indices or found
    if len(best) != 1:
        names = f"{len(best)} weights files: " + ", ".join(file.name for file in best) if best else "no weights file"
        raise WeightsError(f"{path} holds no bundle, and {names}", next_step="name a run, a bundle or one file")
    return best[0]


def are_folds(folder: Path) -> bool:
    """Whether the folder is that of a cross-validation."""
    return (folder / "fold-1").is_dir() and (folder / "run.json").is_file()


def refuse_folds(folder: Path) -> None:
    """Raises WeightsError for the folder of a cross-validation: it holds several models."""
    if are_folds(folder):
        raise WeightsError(
            f"{folder} holds the runs of several folds", next_step=f"name one of them: {folder / 'fold-1'}"
        )


def read_sidecar(path: Path) -> Facts:
    """Reads config.json or NAME.json next to the weights: an origin's, or fields of our config. Empty without one."""
    file = find_sidecar(path)
    return _understand(read_object(file, WeightsError), file) if file else Facts()


def find_sidecar(path: Path) -> Path | None:
    """The JSON file next to the weights that describes them: NAME.json, open_clip_config.json or config.json."""
    of_open_clip = ["open_clip_config.json"] if path.name.startswith("open_clip") else []
    names = [path.with_suffix(".json").name, *of_open_clip, "config.json"]
    # an index of shards is JSON itself
    return next((file for file in map(path.with_name, names) if file.is_file() and file != path), None)


def _understand(data: dict[str, Any], path: Path) -> Facts:
    try:
        found = (origin.read_json(data, path) for origin in ORIGINS.values())
        # an unknown field of our config is refused, with a suggestion, when it is used
        return next((facts for facts in found if facts), Facts(config=data, where=path.name))
    except VitrailError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{path}: {error!r} is missing or odd", next_step="mend it, or move it away") from None


def published_checkpoints() -> Iterator[tuple[str, Checkpoint]]:
    """(origin, checkpoint) of all published files that are known by name."""
    return ((name, checkpoint) for name, origin in ORIGINS.items() for checkpoint in origin.published)


def read_name(origin: Origin, name: str) -> Facts:
    """Reads the name of a file: by the origin's own rules, and as one of its published files."""
    facts = origin.read_name(name)
    known = next((one for one in origin.published if one.name == name), None)
    if known is None:
        return facts
    classes = imagenet_classes() if known.data == "ImageNet-1k" else facts.classes
    config, licence = {**facts.config, **known.config}, facts.licence or known.licence
    return dataclasses.replace(facts, config=config, classes=classes, licence=licence)


def _classes(foreign: Foreign, sidecar: Facts, named: Facts) -> tuple[str, ...]:
    """Names of the outputs, where there are as many."""
    names = sidecar.classes or named.classes
    return names if len(names) == getattr(foreign.config, "classes", 0) else ()


def _notes(
    foreign: Foreign, sidecar: Facts, given: Mapping[str, Any], from_name: Mapping[str, Any], left: tuple[str, ...]
) -> Iterator[str]:
    """Sentences about where settings come from: the caller, the JSON file, the name, else the origin's default."""
    yield from foreign.said
    if given:
        yield f"from the config given: {', '.join(f'{name} {value}' for name, value in given.items())}"
    if from_name:
        yield f"from its file's name: {', '.join(from_name)}"
    if beside := [name for name in sidecar.config if name not in given]:
        yield f"from {sidecar.where} next to it: {', '.join(beside)}"
    if sidecar.preprocess:
        yield f"preprocessing from {sidecar.where} next to it"
    if left:
        yield f"left out: {', '.join(left)}"
