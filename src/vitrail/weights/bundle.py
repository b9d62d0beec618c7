"""Our own weights on disk, and the one door through which any weights come in.

    best/
      model.safetensors    the tensors
      record.json          what they need: config, preprocessing, class names, source, licence, scores, sha256

Saving over an older bundle leaves the old one or the new one at every moment, also when the power fails.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from vitrail import config as configs
from vitrail.errors import ConfigError, StorageError, WeightsError
from vitrail.images.preprocess import Preprocess
from vitrail.models import zoo
from vitrail.models.zoo import ModelConfig
from vitrail.weights.encoder import encoder_of
from vitrail.weights.fit import Report, adapt, at_size, fit
from vitrail.weights.sources import read_foreign
from vitrail.weights.tensors import read_npz, read_safetensors, sha256, sync_folder, to_bytes, write_synced

TENSORS, RECORD, NEXT = "model.safetensors", "record.json", "record.next.json"


@dataclass(frozen=True, kw_only=True)
class Record:
    """What weights need beside their numbers, so that evaluation, prediction, serving and export cannot disagree."""

    config: ModelConfig
    preprocess: Preprocess
    classes: tuple[str, ...] = ()
    """Names of the outputs, in order; empty where nobody said them."""
    source: str = ""
    licence: str = ""
    scores: dict[str, float] = field(default_factory=dict)
    sha256: str = ""
    """Of the file of tensors."""


@dataclass(frozen=True)
class Weights:
    """Tensors in our names, and their record."""

    tensors: dict[str, Tensor]
    record: Record


def save_bundle(folder: Path, model: nn.Module, record: Record) -> None:
    """Writes model.safetensors and record.json into `folder`. Raises StorageError; what was there then stays.

    The new record lies beside the old one before the tensors are replaced: whichever tensors a reader finds, one record
    has their sha256.
    """
    content = to_bytes(model.state_dict())
    aside = folder / f"{TENSORS}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_synced(aside, content)
        record = dataclasses.replace(record, sha256=sha256(aside))
        write_synced(folder / NEXT, json.dumps(configs.to_dict(record), indent=1).encode())
        sync_folder(folder)
        aside.replace(folder / TENSORS)
        sync_folder(folder)
        (folder / NEXT).replace(folder / RECORD)
        sync_folder(folder)
    except OSError as error:
        raise StorageError(
            f"the weights could not be written to {folder} ({error.strerror or error})",
            next_step="what was there before is untouched; free some space or choose another folder",
        ) from error


def load(
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    classes: tuple[str, ...] | None = None,
    image: tuple[int, int] | int | None = None,
) -> nn.Module:
    """A model in eval mode, `model(images) -> logits`, with its Record as `model.record`.

    `path` is a run folder, a bundle folder, or a published file of an origin in `weights.sources`. `config` says what a
    bare file cannot; `classes` names its outputs; `image` makes the model for another size, positions resized.
    WeightsError names everything that does not fit; nothing is ever half loaded.
    """
    weights = read(path, config=config)
    record = weights.record
    tensors = weights.tensors
    if image is not None:
        size = (image, image) if isinstance(image, int) else image
        resized = dataclasses.replace(record.config, image=size)
        tensors = at_size(tensors, record.config, resized)
        preprocess = dataclasses.replace(record.preprocess, size=size)
        record = dataclasses.replace(record, config=resized, preprocess=preprocess)
    if classes is not None:
        if len(classes) != record.config.classes:
            raise ConfigError(f"{len(classes)} class names for a model of {record.config.classes} outputs")
        record = dataclasses.replace(record, classes=tuple(classes))
    model = zoo.skeleton(record.config)
    fit(model, tensors, where=str(path))
    model.record = record  # pyrefly: ignore[bad-argument-type]
    return model.eval()


def load_for_finetuning(
    model: ModelConfig, path: str | Path, *, seed: int = 0, config: ModelConfig | None = None
) -> tuple[nn.Module, Report]:
    """A model of the config `model` for a new task, started from the weights at `path`; and what became of each tensor.

    The paper's section 3.2: the old head is dropped for a zero D×K one, pre_logits goes where the config has none,
    positions are resized in 2-D. `seed` draws what is new; `config` says what a bare file cannot.
    """
    weights = read(path, config=config)
    tensors, old = encoder_of(weights.tensors, weights.record.config)
    fresh = zoo.build(model, seed=seed)
    state, report = adapt(tensors, old, fresh.state_dict(), fresh.config, where=str(path))
    fit(fresh, state, where=str(path))
    return fresh, report


def read_record(path: str | Path, *, config: ModelConfig | None = None) -> Record:
    """What the weights at `path` say of themselves."""
    folder = _bundle_folder(Path(path))
    if folder is not None and (folder / RECORD).is_file():
        return configs.read_json(Record, folder / RECORD)
    return read(path, config=config).record


def read(path: str | Path, *, config: ModelConfig | None = None) -> Weights:
    """Tensors and record of a run folder, a bundle folder or a published file."""
    path = Path(path)
    folder = _bundle_folder(path)
    if folder is not None:
        return _read_bundle(folder, config)
    if not path.exists():
        raise WeightsError(f"there is nothing at {path}", next_step="name a run folder, a bundle or a weights file")
    if path.suffix not in _READERS:
        allowed = "a run folder, a bundle folder, " + ", ".join(f"*{suffix}" for suffix in _READERS)
        raise WeightsError(f"{path} is no weights file that is read here", allowed=allowed)
    origin, foreign = read_foreign(_READERS[path.suffix](path), where=str(path), config=config)
    record = Record(
        config=foreign.config,
        preprocess=foreign.preprocess,
        source=f"{path.name} ({origin})",
        licence=foreign.licence,
        sha256=sha256(path),
    )
    return Weights(foreign.tensors, record)


_READERS = {".npz": read_npz, ".safetensors": read_safetensors}


def _bundle_folder(path: Path) -> Path | None:
    """Where the bundle of this path lies: itself, or a run folder's best/, else its last/. None: it is none of ours."""
    if path.name in (TENSORS, RECORD):
        path = path.parent
    for folder in (path, path / "best", path / "last"):
        if (folder / TENSORS).is_file() and any((folder / name).is_file() for name in (RECORD, NEXT)):
            return folder
    return None


def _read_bundle(folder: Path, config: ModelConfig | None) -> Weights:
    """The bundle, every byte checked against the record that was written with it."""
    digest = sha256(folder / TENSORS)
    records = [configs.read_json(Record, folder / name) for name in (RECORD, NEXT) if (folder / name).is_file()]
    for record in records:
        if record.sha256 == digest:
            if config not in (None, record.config):
                raise ConfigError(
                    f"{folder} says its config itself, and it is another", next_step="leave the config out"
                )
            return Weights(read_safetensors(folder / TENSORS), record)
    raise WeightsError(
        f"{folder / TENSORS} is damaged: its sha256 is {digest[:12]}…, its record says {records[0].sha256[:12]}…",
        next_step="copy the bundle anew, or take another checkpoint of the run",
    )
