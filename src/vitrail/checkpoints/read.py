"""Checkpoints that are whole or do not exist.

    checkpoints/step-00000120/   model.safetensors  optimizer.safetensors  [ema.safetensors]  state.json  manifest.json

`train.commit` says how they get there, `train.shards` what lies there where the ranks hold shards. Reading checks every byte
against the manifest before a tensor is made; a damaged checkpoint is named and the one before is used.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from vitrail.checkpoints.write import (
    CHECKSUMS,
    MANIFEST,
    SCHEMA,
    STATE,
    folder_of,
    publishing,
    seal,
    steps_in,
    write_tensors,
)
from vitrail.errors import CheckpointError
from vitrail.processes.world import World

SHARDS = "shards.json"
"""Where a checkpoint in shards says which part of which tensor lies in which file."""

Sums = tuple[int, str, str]
"""Of a file: its size, the kind of its checksum and that."""


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, verified: tensors by file and name, and the facts beside them."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    """In memory; or, of a checkpoint in shards, `shards.Group`s that read what is asked for."""
    facts: Mapping[str, Any]


def commit(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Writes the checkpoint of `step` under `folder`, whole or not at all, and prunes all but the newest `keep`.

    Raises StorageError when the disk refuses; what was there before stays.
    """
    with publishing(folder, step, keep) as aside:
        names = {f"{name}.safetensors": group for name, group in tensors.items()}
        seal(aside, step, {name: write_tensors(aside / name, group) for name, group in names.items()}, facts)
    return folder_of(folder, step)


def newest(folder: Path, *, say: Callable[[str], None], world: World = World()) -> Snapshot | None:  # noqa: B008  # frozen
    """The newest whole checkpoint. Damaged ones are named through `say` and passed over; None when there never was one.

    Of several ranks all ask, and all get the same: what one finds damaged, none uses. Raises CheckpointError when
    checkpoints exist and all are damaged.
    """
    steps = world.tell(steps_in(folder))[0]
    for step in reversed(steps):
        snapshot, damage = None, ""
        try:
            snapshot = read(folder_of(folder, step))
        except CheckpointError as error:
            damage = str(error)
            if (
                world.alone and steps_in(folder) != steps
            ):  # a run at work has written another and pruned this one meanwhile
                return newest(folder, say=say)
        found = [text for text in world.tell(damage) if text]
        if not found and snapshot:
            return snapshot
        say(f"{found[0]}; using the one before")
    if steps:
        raise CheckpointError(f"all {len(steps)} checkpoints in {folder} are damaged", next_step="start the run anew")
    return None


def read(path: Path) -> Snapshot:
    """Reads one checkpoint, every byte checked against its manifest. Raises CheckpointError on the least difference."""
    manifest = _json(path, _bytes(path / MANIFEST))
    try:
        schema, step, listed = manifest["schema"], int(manifest["step"]), dict(manifest["files"])
        wanted = {name: _sums(entry) for name, entry in listed.items()}
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, "its manifest does not read as one") from None
    if schema != SCHEMA or f"step-{step:08d}" != path.name or any("/" in name for name in wanted):
        raise _damaged(path, f"its manifest says schema {schema}, step {step}")
    if STATE not in wanted:
        raise _damaged(path, f"{STATE} is missing from its manifest")
    if SHARDS in wanted:
        return _in_shards(path, step, wanted)
    contents = {name: _verified(path / name, *entry) for name, entry in wanted.items()}
    tensors = {
        name.removesuffix(".safetensors"): safetensors.torch.load(content)
        for name, content in contents.items()
        if name.endswith(".safetensors")
    }
    return Snapshot(step, tensors, _json(path, contents[STATE]))


def _sums(entry: Mapping[str, Any]) -> Sums:
    (kind,) = (name for name in CHECKSUMS if name in entry)
    return int(entry["size"]), kind, str(entry[kind])


def _in_shards(path: Path, step: int, wanted: Mapping[str, Sums]) -> Snapshot:
    """The same of a checkpoint in shards, which may be larger than memory: verified now, read when asked for."""
    from vitrail.checkpoints import sharded as shards

    for name, entry in wanted.items():
        if name not in (STATE, SHARDS):
            _check(path / name, *entry)
    index, facts = (_json(path, _verified(path / name, *wanted[name])) for name in (SHARDS, STATE))
    return Snapshot(step, shards.groups(path, index), facts)


def _verified(path: Path, size: int, kind: str, value: str) -> bytes:
    content = _bytes(path)
    digest = CHECKSUMS[kind]()
    digest.update(content)
    if len(content) != size or digest.hexdigest() != value:
        raise _damaged(path.parent, f"{path.name} differs from its manifest")
    return content


def _check(path: Path, size: int, kind: str, value: str) -> None:
    """The same without keeping the bytes."""
    with _reading(path) as file:
        digest: Any = CHECKSUMS[kind]
        if os.fstat(file.fileno()).st_size != size or hashlib.file_digest(file, digest).hexdigest() != value:
            raise _damaged(path.parent, f"{path.name} differs from its manifest")


def _bytes(path: Path) -> bytes:
    with _reading(path) as file:
        return file.read()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[Any]:
    """The open file; whatever the disk says against it is damage."""
    try:
        # O_NOFOLLOW: a checkpoint is a folder of files, never a link to somewhere else
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            with os.fdopen(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
                yield file
        finally:
            os.close(folder)
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise _damaged(path.parent, f"{path.name!r} cannot be read ({reason})") from None


def _json(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except ValueError:
        raise _damaged(path, "its JSON does not parse") from None
    if not isinstance(value, dict):
        raise _damaged(path, "its JSON is no object")
    return value


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} is damaged: {why}")
