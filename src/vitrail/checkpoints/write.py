"""How a checkpoint gets onto a disk, whole or not at all.

    checkpoints/step-00000120/   model.safetensors  optimizer.safetensors  [ema.safetensors]  state.json  manifest.json

`storage.whole_folder` fills a hidden folder, syncs it and renames it. The manifest holds the size and sha256 of each file.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from vitrail.storage import sync_file, whole_folder

MANIFEST, STATE = "manifest.json", "state.json"
SCHEMA = 1
ADVICE = "earlier checkpoints are untouched; free some space, then resume"
_STEP = re.compile(r"step-(\d{8,})")


def folder_of(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def aside_of(folder: Path, step: int, owner: int) -> Path:
    """Where process `owner` writes it until it is whole."""
    return folder / f".writing-{step:08d}-{owner}"


def list_steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, oldest first, sound or damaged."""
    if not folder.is_dir():
        return []
    return sorted(int(match[1]) for entry in folder.iterdir() if (match := _STEP.fullmatch(entry.name)))


def commit(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Writes the checkpoint of `step` under `folder`, whole or not at all, and removes all but the newest `keep`.

    Raises StorageError where the disk refuses; earlier checkpoints stay.
    """
    with publish(folder, step, keep) as aside:
        lines = {f"{name}.safetensors": write_tensors(aside / f"{name}.safetensors", tensors[name]) for name in tensors}
        seal(aside, step, lines, facts)
    return folder_of(folder, step)


@contextlib.contextmanager
def publish(folder: Path, step: int, keep: int) -> Generator[Path]:
    """A new folder to fill and `seal`; when the block ends it is the checkpoint of `step`, and all but the newest `keep` go."""
    clear(folder)
    with whole_folder(folder_of(folder, step), aside=aside_of(folder, step, os.getpid()), next_step=ADVICE) as aside:
        yield aside
    prune(folder, keep)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], about: dict[str, str] | None = None) -> dict[str, Any]:
    """Writes a safetensors file with the metadata `about`; gives its line of the manifest."""
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        safetensors.torch.save_file(held, path, metadata=about)
    except safetensors.SafetensorError as error:  # how the library reports a full disk
        raise OSError(str(error)) from error
    os.chmod(path, path.parent.stat().st_mode & 0o666)  # the library lets the owner alone read it
    return describe(path)


def describe(path: Path) -> dict[str, Any]:
    """Makes a new file durable; gives its line of the manifest."""
    sync_file(path)
    with open(path, "rb") as file:
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def seal(aside: Path, step: int, files: Mapping[str, Mapping[str, Any]], facts: Mapping[str, Any]) -> None:
    """Writes the facts, and last the manifest of all files."""
    (aside / STATE).write_text(json.dumps(facts, indent=1), "utf-8")
    listed = {**files, STATE: describe(aside / STATE)}
    (aside / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "step": step, "files": listed}, indent=1), "utf-8")


def prune(folder: Path, keep: int) -> None:
    """Removes all but the newest `keep`. Each is hidden first, so that a reader never finds half of one."""
    for step in list_steps(folder)[:-keep]:
        with contextlib.suppress(OSError):
            folder_of(folder, step).rename(folder / f".deleting-{step:08d}")
    clear(folder)


def clear(folder: Path) -> None:
    """Removes what an interrupted commit left; the run's lock keeps other writers out."""
    for entry in folder.glob(".*"):
        shutil.rmtree(entry, ignore_errors=True)
