"""Weights by name from the Hugging Face hub: `hf:owner/name`, `hf:owner/name@revision`, `hf:owner/name/file.npz`.

Kept in huggingface_hub's own cache; what lies there is used without asking the network again to send it.
"""

import re
from pathlib import Path

from vitrail.errors import WeightsError

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[\w./-]+?))?(@(?P<revision>[\w./-]+))?")
_BESIDE = ["config.json", "preprocessor_config.json"]
_TENSORS = [
    "model.safetensors",
    "record.json",
    "trained.keys",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
]


def is_hub_name(path: str | Path) -> bool:
    return str(path).startswith(PREFIX)


def refuse_link(path: Path) -> Path:
    """The path; WeightsError for a link, which may lead anywhere, but for those of the hub's cache to its own files."""
    if path.is_symlink() and path.resolve().parent != path.parent.resolve().parent.parent / "blobs":
        raise WeightsError(f"{path} is a link", next_step="copy the files themselves into one folder")
    return path


def fetch(name: str) -> Path:
    """The local folder (or file, where one is named) of a hub name, downloaded once. WeightsError when that fails."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    match = _NAME.fullmatch(name)
    if not match or ".." in name:
        raise WeightsError(
            f"{name!r} is no name of the hub", allowed="hf:owner/name, hf:owner/name@revision, hf:owner/name/file"
        )
    file = match["file"]
    wanted = [file, *_BESIDE, *(f"{Path(file).parent}/{one}" for one in _BESIDE)] if file else [*_TENSORS, *_BESIDE]
    try:
        folder = Path(snapshot_download(match["repo"], revision=match["revision"], allow_patterns=wanted))
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise WeightsError(
            f"{name} is not in the cache and the hub cannot be reached",
            next_step="download it once with a network, or name a local file",
        ) from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        first = str(error).strip().splitlines()
        raise WeightsError(
            f"{name} could not be fetched ({first[0] if first else type(error).__name__})",
            next_step="check the name; a gated model needs `hf auth login`",
        ) from error
    path = folder / file if file else folder
    if not path.exists() or (path.is_dir() and not any((path / name).is_file() for name in _TENSORS[::3])):
        raise WeightsError(
            f"{name} has no {file or _TENSORS[0]}", next_step="name one of its files: hf:owner/name/file"
        )
    return path
