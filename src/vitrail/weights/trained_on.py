"""The images that weights were trained on: `trained.keys`, a file of content keys in a run folder and in its bundles.

Weights that started from others have their keys too.
"""

import os
from pathlib import Path

from vitrail.errors import ConfigError
from vitrail.images.content_keys import Keys, read_keys, write_keys
from vitrail.storage import write_whole
from vitrail.weights.files.hub import locate

TRAINED_KEYS = "trained.keys"


def read_trained_keys(path: str | Path) -> Keys | None:
    """The keys of the images that the weights at `path` were trained on; None where nothing says it.

    `path` is a run folder, a bundle, a file in one, or a name of the hub.
    """
    if str(path).startswith("timm:"):
        return None
    folder = locate(path)
    folder = folder if folder.is_dir() else folder.parent
    file = folder / TRAINED_KEYS
    return read_keys(file) if file.is_file() else None


def refuse_run(folder: Path) -> None:
    """ConfigError for the folder of a run: its keys would go, and its own weights would be hidden."""
    if (folder / "run.json").exists():
        raise ConfigError(
            f"{folder} is a run folder", allowed="a new folder, or a file", next_step="choose another `out`"
        )


def copy_trained_keys(path: str | Path | None, folder: Path) -> None:
    """Gives `folder` the keys of the weights at `path`, from which its own were made. Without any, older ones go."""
    keys = None if path is None else read_trained_keys(path)
    if keys is None:
        (folder / TRAINED_KEYS).unlink(missing_ok=True)
    else:
        write_keys(folder / TRAINED_KEYS, keys)


def carry_trained_keys(source: Path, bundle: Path) -> None:
    """Gives a bundle the keys of its run: as a hard link where the disk can, else as a copy."""
    file, there = source / TRAINED_KEYS, bundle / TRAINED_KEYS
    if not file.is_file():
        return
    aside = bundle / f"{TRAINED_KEYS}.part"
    aside.unlink(missing_ok=True)
    try:
        os.link(file, aside)
    except OSError:
        write_whole(there, file.read_bytes())
    else:
        os.replace(aside, there)
