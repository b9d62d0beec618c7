"""Opening data: whatever a person names becomes a Source, or an error that says what it should have been.

One table, SOURCES: to add a kind of data write a function from `Asked` to `Splits`, and register it with a test that knows it.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vitrail.errors import ConfigError, DataError, suggest
from vitrail.images.files import Listing, Walk, key_of
from vitrail.images.folders import LEAVES, open_folder
from vitrail.images.hub import open_hub
from vitrail.images.idx import find_idx, open_idx
from vitrail.images.manifest import open_manifest
from vitrail.images.named import NAMED
from vitrail.images.parquet import open_parquet
from vitrail.images.samples import Sample, Source, Splits
from vitrail.images.shards import is_packed, open_shards
from vitrail.registry import Registry, load_plugins

__all__ = ["NAMED", "SOURCES", "Asked", "DataKind", "Sample", "Source", "Splits", "open_data", "open_images"]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The arguments of `open_data`."""

    text: str
    holdout: float = 0.2
    seed: int = 0
    download: bool = False
    allow_empty: bool = False
    follow_links: bool = False

    @property
    def leaves(self) -> bool:
        """Whether each folder that holds images is a class: "photos/**"."""
        return self.text.endswith("/" + LEAVES)

    @property
    def path(self) -> Path:
        text = self.text.removesuffix(LEAVES) if self.leaves else self.text
        return Path(os.path.realpath(text))  # `resolve` raises for a loop of links


@dataclass(frozen=True)
class DataKind:
    """One kind of data: whether it is what was asked for, and how it is opened."""

    matches: Callable[[Asked], bool]
    open: Callable[[Asked], Splits]


def _is_file(asked: Asked, *suffixes: str) -> bool:
    return asked.path.is_file() and asked.path.suffix.lower() in suffixes


def _by_path(opener: Callable[..., Splits]) -> Callable[[Asked], Splits]:
    """The opener of a file or folder that has no split, or its own."""
    return lambda asked: opener(asked.path, holdout=asked.holdout, seed=asked.seed)


def _open_named(asked: Asked) -> Splits:
    found = NAMED[asked.text](asked.text, asked.holdout, asked.seed, asked.download)
    return replace(found, published=not found.drawn)


def _has_parquet(asked: Asked) -> bool:
    path = asked.path
    return path.is_dir() and any(next(path.glob(f"{sub}*.parquet"), None) for sub in ("", "data/"))


SOURCES = Registry[DataKind](
    "kind of data",
    {
        "named set": DataKind(lambda asked: asked.text in list(NAMED), _open_named),
        "hub": DataKind(
            lambda asked: asked.text.startswith("hf:"),
            lambda asked: open_hub(
                asked.text.removeprefix("hf:"), holdout=asked.holdout, seed=asked.seed, download=asked.download
            ),
        ),
        "shards": DataKind(lambda asked: is_packed(asked.path), lambda asked: open_shards(asked.path)),
        "idx": DataKind(lambda asked: asked.path.is_dir() and bool(find_idx(asked.path)), _by_path(open_idx)),
        "parquet": DataKind(lambda asked: _has_parquet(asked) or _is_file(asked, ".parquet"), _by_path(open_parquet)),
        "list": DataKind(lambda asked: _is_file(asked, ".csv", ".tsv"), _by_path(open_manifest)),
    },
)
"""Kinds of data in the order they are tried; a folder that is none of them holds class folders."""


def kind_of(asked: Asked) -> str | None:
    """The name in SOURCES of what was asked for, "folder" for class folders, None where there is nothing of the name."""
    try:
        kind = None if asked.leaves else next((name for name, kind in SOURCES.items() if kind.matches(asked)), None)
    except OSError as error:
        raise DataError(
            f"the folder {key_of(asked.text)} cannot be listed ({error.strerror})", next_step="check permissions"
        ) from None
    return kind or ("folder" if asked.text and asked.path.is_dir() else None)


def open_data(
    spec: str | Path | Splits, *, holdout: float = 0.2, seed: int = 0, download: bool = False, allow_empty: bool = False,
    follow_links: bool = False,
) -> Splits:  # fmt: skip
    """Labelled images to train on and held-out ones.

    `spec` is a folder (class folders, with train, val and test above them or not; IDX files; shards; Parquet), a CSV, TSV
    or Parquet file, a named set, or `hf:owner/name`. With "/**" after a folder, each folder that holds images is a class.
    `holdout` is the share of every class held out where the data has no
    split of its own; 0 holds out none. Named sets are fetched only with `download`, links out of a folder are followed only with
    `follow_links`. Opened Splits are given back. Raises DataError, and ConfigError for what is none of these.
    """
    if isinstance(spec, Splits):
        return spec
    check_kind(spec)
    if not 0 <= holdout < 1:
        raise DataError(f"holdout = {holdout}", allowed="a share between 0 and 1, or 0 to hold out none")
    asked = Asked(
        text=str(spec), holdout=holdout, seed=seed, download=download, allow_empty=allow_empty,
        follow_links=follow_links,
    )  # fmt: skip
    kind = kind_of(asked)
    if kind is None:
        load_plugins()
        kind = kind_of(asked)
    if kind is None:
        raise _unknown(asked)
    if kind == "folder":
        return open_folder(
            asked.path,
            holdout=holdout,
            seed=seed,
            allow_empty=allow_empty,
            follow_links=follow_links,
            leaves=asked.leaves,
        )
    return SOURCES[kind].open(asked)


def check_kind(data: object) -> None:
    """Raises ConfigError for what cannot name images."""
    if not isinstance(data, str | os.PathLike | Splits):
        raise ConfigError(f"data of type {type(data).__name__}", allowed="a path, a named set, or opened Splits")


def _unknown(asked: Asked) -> DataError:
    path = asked.path
    if is_address(asked.text):
        return address_error(asked.text)
    if asked.text and path.is_file():
        packed = path.suffix.lower() in (".tar", ".zip", ".gz", ".tgz")
        return DataError(
            f"{path} is a file",
            allowed="a folder, or a file that ends in .csv, .tsv or .parquet",
            next_step="unpack it first" if packed else f"point at its folder, {path.parent}",
        )
    if asked.text and path.exists():
        return DataError(f"{path} is a pipe, a socket or a device", allowed="a file or a folder")
    return DataError(
        f"there is no file or folder {key_of(asked.text)!r}, and no set of this name",
        allowed="a folder with a folder of images for each class, a CSV file, IDX files, shards, or one of "
        + ", ".join(NAMED),
        next_step=suggest(asked.text, NAMED) or "check the path",
    )


def is_address(text: str) -> bool:
    """Whether a word is an address of the web. A Path has lost one of its slashes."""
    return bool(re.match(r"(https?|ftp|s3|gs):/", text))


def address_error(text: str) -> DataError:
    address = re.sub(r"^(\w+):/+", r"\1://", text)
    return DataError(
        f"{address} is an address; images are read from this machine",
        allowed="a file, a folder, a named set, or hf:owner/name",
        next_step="download it first, then name the file or folder",
    )


def open_all(paths: Sequence[str | Path], *, follow_links: bool = False) -> dict[str, Source]:
    """Everything there is to predict, by split: of shards, Parquet, IDX files or a named set all parts; else the files
    and folders as `open_images` takes them, without a split ("")."""
    if len(paths) != 1 or kind_of(Asked(text=str(paths[0]))) in (None, "folder"):
        return {"": open_images(paths, follow_links=follow_links)}
    return open_data(paths[0], follow_links=follow_links).parts


def open_images(paths: Sequence[str | Path], *, follow_links: bool = False) -> Source:
    """Unlabelled images to predict: files as named, folders searched at any depth. A missing path is an error."""
    every, notes = Listing(), []
    for path in paths:
        name = key_of(str(path))
        if is_address(str(path)):
            raise address_error(str(path))
        if not os.path.exists(path):
            raise DataError(f"there is no file or folder {name!r}", next_step="check the path")
        if os.path.isdir(path):
            (listing,) = Walk(Path(path), follow_links=follow_links).list()
            every.images += [(os.path.join(name, key), size) for key, size in listing.images]
            every.skipped += [(os.path.join(name, key), reason) for key, reason in listing.skipped]
            notes += [f"{name}: {note}" for note in listing.note]
        elif os.path.isfile(path):
            every.images.append((name, os.path.getsize(path)))
        else:
            raise DataError(f"{name!r} is a pipe or a device", allowed="image files and folders of them")
    if not every.images:
        raise DataError(
            f"no images in {', '.join(key_of(str(path)) for path in paths) or 'nothing'}",
            next_step="; ".join(notes) or "name image files, or folders of them",
        )
    files, rows = every.files(Path()), np.arange(len(every.images))
    return Source("images", (), np.full(len(rows), -1), files.keys, files, rows, tuple(notes), tuple(every.skipped))


def open_unlabelled(path: str | Path, *, follow_links: bool = False) -> Splits:
    """Every picture under a folder, all of them in the test part."""
    source = open_images([path], follow_links=follow_links)
    return Splits(source.subset([]), source, "all images, unlabelled")
