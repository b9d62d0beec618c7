"""Our own weights on disk, and the one door through which any weights come in.

    best/
      model.safetensors    the tensors
      record.json          what they need: config, preprocessing, class names, source, licence, scores, sha256

Saving over an older bundle leaves the old one or the new one at every moment, also when the power fails.
"""

import dataclasses
import hashlib
import logging
import os
from collections.abc import Mapping
from numbers import Integral
from pathlib import Path
from typing import Any

from torch import nn

from vitrail import config as configs
from vitrail.errors import ConfigError, WeightsError, suggest
from vitrail.models import zoo
from vitrail.models.backbone import Backbone
from vitrail.models.timm_model import PREFIX as TIMM
from vitrail.models.timm_model import config_of
from vitrail.models.zoo import ModelConfig
from vitrail.storage import remove, write_whole
from vitrail.weights.encoder import encoder_of
from vitrail.weights.files.hub import fetch, is_cached, is_hub_name, refuse_link
from vitrail.weights.files.safe import check_header, not_finite, read_safetensors, sha256, to_bytes
from vitrail.weights.fit import Report, adapt, at_size, fit
from vitrail.weights.published import PUBLISHED, Published, find_published
from vitrail.weights.published_file import read_file
from vitrail.weights.record import Record, Told, Weights
from vitrail.weights.timm_pretrained import is_timm_name, read_pretrained, record_of

ABOUT = "record"
"""The metadata of the tensors that has the digest of the record they were saved with."""
TENSORS, RECORD, NEXT = "model.safetensors", "record.json", "record.next.json"


log = logging.getLogger("vitrail")


def save_bundle(folder: str | Path, model: nn.Module, record: Record) -> None:
    """Writes model.safetensors and record.json into `folder`. Raises StorageError; what was there then stays.

    The new record lies beside the old one before the tensors are replaced: whichever tensors a reader finds, one record
    has their sha256.
    """
    folder, content = Path(folder), to_bytes(model.state_dict(), {ABOUT: _digest(configs.to_dict(record))})
    record = dataclasses.replace(record, sha256=hashlib.sha256(content).hexdigest())
    described = configs.sealed_json(record)
    write_whole(folder / NEXT, described)
    write_whole(folder / TENSORS, content)
    write_whole(folder / RECORD, described)
    remove(folder / NEXT)


def load(
    path: str | Path,
    *,
    config: Told = None,
    classes: tuple[str, ...] | None = None,
    image: tuple[int, int] | int | None = None,
    allow_nonfinite: bool = False,
) -> Backbone:
    """A model in eval mode, `model(images) -> logits`, with its Record as `model.record`.

    `path` is a run folder, a bundle folder, a published file, a folder with one, a published name (`vitrail models
    --published`), or a name of the hub (`hf:owner/name`) or of timm (`timm:NAME`). A run folder gives the weights its report
    is about. `config`, whole or some of its fields, says what a bare file cannot. `classes` names its outputs; `image` makes
    the model for another size, positions resized. WeightsError names everything that does not fit, and NaN; nothing is
    ever half loaded.
    """
    weights = resized(read(path, config=config), image)
    record = weights.record
    if classes is not None:
        if len(classes) != record.config.classes:
            raise ConfigError(f"{len(classes)} class names for a model of {record.config.classes} outputs")
        record = dataclasses.replace(record, classes=tuple(classes))
    refuse_nonfinite(weights, path, allow_nonfinite)
    say_assumed(record, path)
    model = zoo.skeleton(record.config)
    fit(model, weights.tensors, where=str(path))
    model.record, model.loaded_from = record, str(path)
    return model.eval()


def resized(weights: Weights, image: tuple[int, int] | int | None) -> Weights:
    """The same weights for another image size; as they came for None."""
    if image is None:
        return weights
    record = weights.record
    height, width = (image, image) if isinstance(image, int | Integral) else image
    size = int(height), int(width)
    config = _for_image(record.config, size)
    preprocess = dataclasses.replace(record.preprocess, size=size)
    record = dataclasses.replace(record, config=config, preprocess=preprocess)
    return Weights(at_size(weights.tensors, weights.record.config, config), record)


def _for_image(config: Any, size: tuple[int, int]) -> Any:
    """The config for images of another size: that of its encoder, where pre-training puts something around one."""
    if config.encoder is config:
        return dataclasses.replace(config, image=size)
    return dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, image=size))


def refuse_nonfinite(weights: Weights, path: str | Path, allow: bool = False) -> None:
    """WeightsError that names the tensors with NaN or infinities, unless that is allowed."""
    if not allow and (bad := not_finite(weights.tensors)):
        names = ", ".join(f"{name} ({count:,})" for name, count in bad.items())
        raise WeightsError(
            f"{path} has numbers that are NaN or infinite: {names}",
            next_step="take an earlier checkpoint; load(…, allow_nonfinite=True) looks at it nevertheless",
        )


def say_assumed(record: Record, path: str | Path) -> None:
    """Logs every setting that was assumed, because neither the file nor the caller gives it."""
    for note in record.notes:
        if note.startswith("not in the file"):
            log.warning("%s: %s", path, note)


def load_for_finetuning(
    model: ModelConfig, path: str | Path, *, seed: int = 0, config: Told = None
) -> tuple[Backbone, Report]:
    """A model of the config `model` for a new task, started from the weights at `path`; and what became of each tensor.

    The paper's section 3.2: the old head is dropped for a zero D×K one, pre_logits goes where the config has none,
    positions are resized in 2-D. `seed` draws what is new; `config` says what a bare file cannot.
    """
    weights = read(path, config=config)
    refuse_nonfinite(weights, path)
    say_assumed(weights.record, path)
    tensors, old = encoder_of(weights.tensors, weights.record.config)
    fresh = zoo.build(model, seed=seed)
    state, report = adapt(tensors, old, fresh.state_dict(), fresh.config, where=str(path))
    fit(fresh, state, where=str(path))
    return fresh, report


def read_record(path: str | Path, *, config: Told = None) -> Record:
    """The record of the weights at `path`, without reading tensors where that is possible."""
    if is_timm_name(path):
        return record_of(config_of(str(path).removeprefix(TIMM)))
    if not is_remote(path):
        folder = find_bundle(Path(path))
        # with a second record beside it, the tensors say which one is theirs
        if folder is not None and (folder / RECORD).is_file() and not (folder / NEXT).exists():
            return configs.read_json(Record, refuse_link(folder / RECORD))
    return read(path, config=config).record


def read(path: str | Path, *, config: Told = None) -> Weights:
    """Tensors and record of a run folder, a bundle folder, a published file, or a name: of the table, the hub or timm."""
    if is_timm_name(path):
        return read_pretrained(path)
    if known := find_published(path):
        return _read_published(str(path), known, config)
    path = fetch(str(path)) if is_hub_name(path) else Path(path)
    if path.suffix == ".xml" or _is_exported(path):
        raise WeightsError(
            f"{path} is an exported graph, not weights",
            next_step="`vitrail predict`, `vitrail evaluate` and `vitrail robustness` read it; "
            "for the rest name the run it was made from",
        )
    folder = find_bundle(path)
    if folder is not None:
        return _read_bundle(folder, config)
    if not path.exists():
        raise missing(path)
    if (path / "checkpoints").is_dir():
        raise WeightsError(
            f"the run in {path} has not come to its first evaluation, which writes best/ or last/",
            next_step=f"`vitrail run export {path} --out NAME` makes a bundle of its newest checkpoint",
        )
    return read_file(path, config)


def missing(path: str | Path) -> WeightsError:
    """The error for weights that are nowhere; it names the published ones whose name begins so."""
    alike = [name for name in PUBLISHED if name.startswith(f"{path}-")]
    step = "name a run folder, a bundle, a weights file, a published name, or hf:owner/name for one of the hub"
    if alike:
        step = f"published are {', '.join(alike)}"
    elif str(path) in zoo.list_models():
        step += f"; {path} is a model's name, its weights are a file"
    elif near := suggest(str(path), PUBLISHED):
        step += f"; {near}"
    return WeightsError(f"there is nothing at {path}", next_step=step)


def _is_exported(path: Path) -> bool:
    """Whether `vitrail export` wrote this ONNX file: its last entry is our digest. Other ONNX files hold weights."""
    if path.suffix != ".onnx" or not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(-min(200, path.stat().st_size), os.SEEK_END)
        return b"vitrail" in file.read(200)


def _read_published(name: str, known: Published, config: Told) -> Weights:
    """The weights of a name of the table. Its licence goes into the record; at the first use it is logged."""
    if not is_cached(known.address):
        gate = f"; the hub asks who wants them: https://huggingface.co/{known.hub}" if known.gated else ""
        log.warning("%s: %s of %s, licence: %s%s", name, known.file, known.hub, known.licence, gate)
    weights = read(known.address, config=config)
    digest = weights.record.sha256
    if known.sha256 and digest != known.sha256:
        raise WeightsError(
            f"{name} is another file than the published one: its sha256 is {digest[:12]}…, not {known.sha256[:12]}…",
            next_step=f"load it as {known.address} if that is meant",
        )
    record = dataclasses.replace(weights.record, licence=known.licence, source=f"{name} ({known.address})")
    return Weights(weights.tensors, record)


def is_remote(path: str | Path) -> bool:
    """Whether weights are named by where they are published, by a name of the table, `hf:…` or `timm:…`, not by a path."""
    return is_hub_name(path) or is_timm_name(path) or find_published(path) is not None


def find_bundle(path: Path) -> Path | None:
    """The folder of the bundle: `path` itself, or the one that a run in `path` reports; None without a bundle.

    A run reports last/ if it has final scores. Without a validation split, the test images chose best/.
    """
    last = path / "last"
    run = (last, path / "best") if _scored(last) else (path / "best", last)
    # a file that is named is that file, also in the folder of a run
    for folder in (path.parent,) if path.name in (TENSORS, RECORD) else (path, *run):
        if (folder / TENSORS).is_file() and any((folder / name).is_file() for name in (RECORD, NEXT)):
            return folder
    return None


def _scored(folder: Path) -> bool:
    return (folder / RECORD).is_file() and bool(configs.read_json(Record, folder / RECORD).scores)


def _read_bundle(folder: Path, config: Told) -> Weights:
    """The bundle, every byte checked against the record that was written with it."""
    digest = sha256(refuse_link(folder / TENSORS))
    files = [refuse_link(folder / name) for name in (RECORD, NEXT) if (folder / name).is_file()]
    records = {file: configs.read_json(Record, file) for file in files}
    for file, record in records.items():
        if record.sha256 == digest:
            _check_record(file)
            if isinstance(config, Mapping):
                record = dataclasses.replace(record, config=_merge(record.config, config, str(folder)))
            elif config not in (None, record.config):
                raise ConfigError(
                    f"{folder} says its config itself, and it is another", next_step="leave the config out"
                )
            return Weights(read_safetensors(folder / TENSORS), record)
    raise WeightsError(
        f"{folder / TENSORS} is damaged: its sha256 is {digest[:12]}…, its record says {records[files[0]].sha256[:12]}…",
        next_step="copy the bundle again, or take another checkpoint of the run",
    )


def _check_record(path: Path) -> None:
    """A record that is not the one these tensors were saved with: said where a person removed its seal, else refused."""
    facts = configs.read_object(path)
    sealed = facts.pop(configs.SEAL, None)
    if check_header(path.parent / TENSORS).get(ABOUT) in (None, _digest(facts)):
        return
    if sealed:
        raise WeightsError(
            f"{path} is not the record that {TENSORS} was saved with",
            next_step=f"copy both again; or, if you changed it on purpose, remove its line {configs.SEAL!r}",
        )
    log.warning("%s was edited by hand after the weights were saved", path)


def _digest(facts: Mapping[str, Any]) -> str:
    """Over all facts of a record but the sha256 of the tensors, which hold this digest."""
    return configs.seal_of({name: value for name, value in facts.items() if name != "sha256"})


def _merge(config: ModelConfig, told: Mapping[str, Any], where: str) -> ModelConfig:
    """The config with the fields of `told`, those of nested configs too. ConfigError for one it does not have."""
    return configs.from_dict(type(config), _merge_fields(configs.to_dict(config), told), where=where)


def _merge_fields(fields: Mapping[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    inner = {
        name: _merge_fields(fields[name], value)
        for name, value in told.items()
        if isinstance(value, Mapping) and isinstance(fields.get(name), Mapping)
    }
    return {**fields, **told, **inner}
