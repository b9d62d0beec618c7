"""Reads checkpoints: every byte is checked against the manifest first, and a damaged one is passed over for the one before."""

import hashlib
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import safetensors.torch
from torch import Tensor

from vitrail.checkpoints.write import MANIFEST, SCHEMA, STATE, folder_of, list_steps
from vitrail.config import LARGEST, parse_json
from vitrail.errors import CheckpointError
from vitrail.processes.world import World
from vitrail.storage import open_regular

BLOCK = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """One checkpoint, checked: tensors by file and name, and the facts saved with them."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    """In memory; of a checkpoint in shards, `sharded.Group`s that read what is asked for."""
    facts: Mapping[str, Any]


def newest(folder: Path, *, say: Callable[[str], None], world: World = World()) -> Snapshot | None:  # noqa: B008  # frozen
    """The newest whole checkpoint; None where there never was one. `say` gets a sentence for each damaged one.

    All ranks call it and get the same: one that is damaged for any rank is used by none. Raises CheckpointError where
    all are damaged.
    """
    steps = world.tell(list_steps(folder))[0]
    for step in reversed(steps):
        snapshot, damage = None, ""
        try:
            snapshot = read(folder_of(folder, step))
        except CheckpointError as error:
            damage = str(error)
            if world.alone and list_steps(folder) != steps:  # another process wrote a new one and removed this one
                return newest(folder, say=say)
        found = [text for text in world.tell(damage) if text]
        if not found and snapshot:
            return snapshot
        say(f"{found[0]}; using the one before")
    if steps:
        raise CheckpointError(
            f"all {len(steps)} checkpoints in {folder} are damaged", next_step="start the run again in a new folder"
        )
    return None


def read(path: Path) -> Snapshot:
    """Reads one checkpoint. Raises CheckpointError where a file is missing, or differs from the manifest in one bit."""
    step, listed = _manifest(path)
    facts = _parse(path, _verified(path / STATE, listed.pop(STATE)))
    if any(name.startswith("shard") for name in listed):  # may be larger than memory: checked now, read where asked for
        from vitrail.checkpoints import sharded

        for name, line in listed.items():
            _verified(path / name, line, keep=False)
        return Snapshot(step, sharded.open_groups(path), facts)
    contents = {name: _verified(path / name, line) for name, line in listed.items()}
    loaded = {name.removesuffix(".safetensors"): safetensors.torch.load(content) for name, content in contents.items()}
    return Snapshot(step, loaded, facts)


def _manifest(path: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """(step, {file: size and checksum})."""
    if path.is_symlink():
        raise _damaged(path, "it is a link")
    with _open(path / MANIFEST) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise _damaged(path, f"{MANIFEST} has more than {LARGEST:,} bytes")
    manifest = _parse(path, content)
    try:
        schema, step, listed = manifest["schema"], int(manifest["step"]), dict(manifest["files"])
        for line in listed.values():
            int(line["size"]), str(line.get("sha256") or line["crc32"])
    except (KeyError, TypeError, ValueError, AttributeError):
        raise _damaged(path, "its manifest cannot be read") from None
    if schema != SCHEMA or f"step-{step:08d}" != path.name or any("/" in name for name in listed):
        raise _damaged(path, f"its manifest says schema {schema}, step {step}")
    if STATE not in listed:
        raise _damaged(path, f"{STATE} is missing from its manifest")
    return step, listed


def _verified(path: Path, line: Mapping[str, Any], *, keep: bool = True) -> bytes:
    """The bytes of a file that is equal to its line of the manifest. Without `keep` they are only checked."""
    with _open(path) as file:
        same = os.fstat(file.fileno()).st_size == line["size"]
        content = file.read() if same and keep else b""
        blocks = [content] if keep else iter(lambda: file.read(BLOCK), b"")
        if not same or _sum(line, blocks) != (line.get("sha256") or line["crc32"]):
            raise _damaged(path.parent, f"{path.name} differs from its manifest")
    return content


def _sum(line: Mapping[str, Any], blocks: Any) -> str:
    """The checksum that a line has: sha256; large files of Vitrail 0.1.0 have a crc32."""
    digest, crc = hashlib.sha256(), 0
    for block in blocks:
        if "sha256" in line:
            digest.update(block)
        else:
            crc = zlib.crc32(block, crc)
    return digest.hexdigest() if "sha256" in line else f"{crc:08x}"


def _open(path: Path) -> IO[bytes]:
    try:
        return open_regular(path, follow_links=False)
    except (OSError, ValueError) as error:  # a name with a NUL is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise _damaged(path.parent, f"{path.name!r} cannot be read ({reason})") from None


def _parse(path: Path, content: bytes) -> dict[str, Any]:
    try:
        value = parse_json(content)
    except ValueError:
        raise _damaged(path, "its JSON does not parse") from None
    if not isinstance(value, dict):
        raise _damaged(path, "its JSON is no object")
    return value


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(f"checkpoint {path} is damaged: {why}")
