"""Checkpoints that are whole or do not exist.

    checkpoints/step-00000120/   model.safetensors  optimizer.safetensors  [ema.safetensors]  state.json  manifest.json

Commit: written aside under a name no reader looks at, every file synced, the manifest (size and sha256 of each file) last,
the folder synced, then renamed and the parent synced. Any kill or power loss leaves the old state or the new one.
Reading checks every byte against the manifest before a tensor is made; a damaged checkpoint is named and the one before is used.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from vitrail.errors import CheckpointError, StorageError

MANIFEST = "manifest.json"
SCHEMA = 1
_STEP = re.compile(r"step-(\d{8,})")


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, read and verified: tensors by file and name, and the facts beside them."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    facts: Mapping[str, Any]


def commit(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Writes the checkpoint of `step` under `folder`, whole or not at all, and prunes all but the newest `keep`.

    Raises StorageError when the disk refuses; what was there before stays.
    """
    final = folder / f"step-{step:08d}"
    aside = folder / f".writing-{step:08d}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clear(folder)
        aside.mkdir()
        files = {f"{name}.safetensors": _tensor_bytes(group) for name, group in tensors.items()}
        files["state.json"] = json.dumps(facts, indent=1).encode()
        digests = {name: _write(aside / name, content) for name, content in files.items()}
        _write(aside / MANIFEST, json.dumps({"schema": SCHEMA, "step": step, "files": digests}, indent=1).encode())
        sync_folder(aside)
        if final.exists():  # only ever a damaged one, or the same step done again
            final.rename(folder / f".replaced-{step:08d}-{os.getpid()}")
        aside.rename(final)
        sync_folder(folder)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise StorageError(
            f"the checkpoint of step {step} could not be written to {folder} ({error.strerror or error})",
            next_step="earlier checkpoints are untouched; free some space and resume with --resume",
        ) from error
    prune(folder, keep)
    return final


def steps_in(folder: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first; says nothing of their health."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _STEP.fullmatch(entry.name)))


def newest(folder: Path, *, say: Callable[[str], None]) -> Snapshot | None:
    """The newest whole checkpoint. Damaged ones are named through `say` and passed over; None when there never was one.

    Raises CheckpointError when checkpoints exist and all are damaged.
    """
    steps = steps_in(folder)
    for step in reversed(steps):
        try:
            return read(folder / f"step-{step:08d}")
        except CheckpointError as error:
            if steps_in(folder) != steps:  # a run at work has written another and pruned this one meanwhile
                return newest(folder, say=say)
            say(f"{error}; using the one before")
    if steps:
        raise CheckpointError(f"all {len(steps)} checkpoints in {folder} are damaged", next_step="start the run anew")
    return None


def read(path: Path) -> Snapshot:
    """Reads one checkpoint, every byte checked against its manifest. Raises CheckpointError on the least difference."""
    manifest = _json(path, _bytes(path / MANIFEST))
    try:
        schema, step, listed = manifest["schema"], int(manifest["step"]), dict(manifest["files"])
        wanted = {name: (int(entry["size"]), str(entry["sha256"])) for name, entry in listed.items()}
    except (KeyError, TypeError, ValueError):
        raise _damaged(path, "its manifest does not read as one") from None
    if schema != SCHEMA or f"step-{step:08d}" != path.name or any("/" in name for name in wanted):
        raise _damaged(path, f"its manifest says schema {schema}, step {step}")
    contents = {name: _verified(path / name, *entry) for name, entry in wanted.items()}
    if "state.json" not in contents:
        raise _damaged(path, "state.json is missing from its manifest")
    tensors = {
        name.removesuffix(".safetensors"): safetensors.torch.load(content)
        for name, content in contents.items()
        if name.endswith(".safetensors")
    }
    return Snapshot(step, tensors, _json(path, contents["state.json"]))


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep`; each is renamed out of sight first, so that nobody reads half of it."""
    for step in steps_in(folder)[:-keep]:
        gone = folder / f".deleting-{step:08d}"
        with contextlib.suppress(OSError):
            (folder / f"step-{step:08d}").rename(gone)
    _clear(folder)


def sync_folder(folder: Path) -> None:
    """Makes the folder's entries durable: without it a rename can be lost with the power."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _clear(folder: Path) -> None:
    """Removes what an interrupted commit or prune left aside; the run's lock keeps other writers out."""
    for entry in folder.glob(".*-*"):
        if entry.name.startswith((".writing-", ".deleting-", ".replaced-")):
            shutil.rmtree(entry, ignore_errors=True)


def _tensor_bytes(group: Mapping[str, Tensor]) -> bytes:
    return safetensors.torch.save({name: tensor.detach().cpu().contiguous() for name, tensor in group.items()})


def _write(path: Path, content: bytes) -> dict[str, Any]:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _verified(path: Path, size: int, sha256: str) -> bytes:
    content = _bytes(path)
    if len(content) != size or hashlib.sha256(content).hexdigest() != sha256:
        raise _damaged(path.parent, f"{path.name} differs from its manifest")
    return content


def _bytes(path: Path) -> bytes:
    try:
        with _opened(path) as file:
            return file.read()
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise _damaged(path.parent, f"{path.name!r} cannot be read ({reason})") from None


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    # O_NOFOLLOW: a checkpoint is a folder of files, never a link to somewhere else
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        with os.fdopen(os.open(path.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=folder), "rb") as file:
            yield file
    finally:
        os.close(folder)


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
