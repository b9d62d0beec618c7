"""Weights by name from the Hugging Face hub: `hf:owner/name`, `hf:owner/name@revision`, `hf:owner/name/file.npz`.

Kept in huggingface_hub's own cache; what lies there is used without asking the network again to send it. A download is
resumed where it stopped, and compared with the digest by which the hub names it. A hub that does not answer is waited
for in vain for a minute or two: the client tries six times, 10 seconds each (`HF_HUB_ETAG_TIMEOUT`, `HF_HUB_DOWNLOAD_TIMEOUT`).
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vitrail.errors import WeightsError
from vitrail.weights.published import find_published

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(/(?P<file>[\w./-]+?))?(@(?P<revision>[\w./-]+))?")
_BESIDE = ["config.json", "preprocessor_config.json", "open_clip_config.json"]
_TENSORS = [
    "model.safetensors",
    "record.json",
    "trained.keys",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
]
_DIGEST = re.compile(r"[0-9a-f]{64}")


def is_hub_name(path: str | Path) -> bool:
    return str(path).startswith(PREFIX)


def refuse_link(path: Path) -> Path:
    """The path; WeightsError for a link, which may lead anywhere, but for those of the hub's cache to its own files."""
    if path.is_symlink() and path.resolve().parent != path.parent.resolve().parent.parent / "blobs":
        raise WeightsError(f"{path} is a link", next_step="copy the files themselves into one folder")
    return path


def check_blob(path: Path, digest: str) -> None:
    """WeightsError where a file of the hub's cache has other bytes than the hub sent: it is named by its sha256."""
    blob = path.resolve()
    if path.is_symlink() and _DIGEST.fullmatch(blob.name) and blob.name != digest:
        raise WeightsError(
            f"{path.name} was damaged on its way or on the disk: its sha256 is {digest[:12]}…, the hub's {blob.name[:12]}…",
            next_step=f"remove {blob} and load it again",
        )


def is_cached(name: str) -> bool:
    """Whether the tensors of a hub name lie in the cache, so that they were used before."""
    from huggingface_hub import try_to_load_from_cache

    match = _parse(name)
    found = try_to_load_from_cache(match["repo"], match["file"] or _TENSORS[0], revision=match["revision"])
    return isinstance(found, str)


def fetch(name: str, more: Sequence[str] = ()) -> Path:
    """The local folder (or file, where one is named) of a hub name, downloaded once. WeightsError when that fails.

    `more` are further files of the same folder that are wanted where they are there.
    """
    match = _parse(name)
    file = match["file"]
    beside = [*_BESIDE, *more]
    wanted = [file, *beside, *(f"{Path(file).parent}/{one}" for one in beside)] if file else [*_TENSORS, *beside]
    path = _download(name, match["repo"], match["revision"], wanted)
    path = path / file if file else path
    if not path.exists() or (path.is_dir() and not any((path / name).is_file() for name in _TENSORS[::3])):
        raise WeightsError(
            f"{name} has no {file or _TENSORS[0]}", next_step="name one of its files: hf:owner/name/file"
        )
    return path


def locate(path: str | Path, more: Sequence[str] = ()) -> Path:
    """The file or folder on this machine of a path, or of a name of the table or the hub. Raises what `fetch` raises."""
    known = find_published(path)
    place = known.address if known else str(path)
    return fetch(place, more) if is_hub_name(place) else Path(path)


def _parse(name: str) -> re.Match[str]:
    match = _NAME.fullmatch(name)
    if not match or ".." in name:
        raise WeightsError(
            f"{name!r} is no name of the hub", allowed="hf:owner/name, hf:owner/name@revision, hf:owner/name/file"
        )
    return match


@contextmanager
def _bounded_waits() -> Iterator[None]:
    """No request waits longer for an answer than the user's limit, while this block runs.

    The client itself lists a repository without any limit, and asks for a file's size again with one of a minute.
    """
    from huggingface_hub import constants, get_session

    def limit(request: Any) -> None:
        longest = max(constants.HF_HUB_ETAG_TIMEOUT, constants.HF_HUB_DOWNLOAD_TIMEOUT)
        given = request.extensions.get("timeout", {})
        parts = ("connect", "read", "write", "pool")
        request.extensions["timeout"] = {part: min(given.get(part) or longest, longest) for part in parts}

    hooks: list[Any] = getattr(get_session(), "event_hooks", {"request": []})["request"]  # older ones have limits
    hooks.append(limit)
    try:
        yield
    finally:
        hooks.remove(limit)


def network_error() -> type[Exception]:
    """The error of the client without a network: that of its HTTP package, where it is not an OSError."""
    from huggingface_hub import utils

    return getattr(getattr(utils, "httpx", None), "HTTPError", OSError)


def _download(name: str, repo: str, revision: str | None, wanted: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        with _bounded_waits():
            return Path(snapshot_download(repo, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise WeightsError(
            f"{name} is gated: the hub asks who wants it",
            next_step=f"ask for access at https://huggingface.co/{repo} in a browser, then `hf auth login`",
        ) from error
    except (LocalEntryNotFoundError, ConnectionError) as error:
        raise WeightsError(
            f"{name} is not in the cache and the hub cannot be reached, or does not answer",
            next_step="download it once with a network, or name a local file",
        ) from error
    except (HfHubHTTPError, HFValidationError, network_error(), OSError) as error:
        first = str(error).strip().splitlines()
        raise WeightsError(
            f"{name} could not be fetched ({first[0] if first else type(error).__name__})",
            next_step="check the name; a gated model needs `hf auth login`; what was downloaded is used again",
        ) from error
