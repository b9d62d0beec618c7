"""Files that cannot be read, moved out of a folder of images."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from vitrail.errors import DataError
from vitrail.images.files import Files, inside, key_of
from vitrail.images.folders import LEAVES
from vitrail.images.samples import Source
from vitrail.storage import storage_errors


def check_place(data: str, into: Path) -> None:
    """Raises DataError for a link, and for a place inside the folder `data`, where the moved files would be a class."""
    if into.is_symlink():
        raise DataError(f"{into} is a link: nothing is written through a link", next_step="name a folder")
    folder = os.path.realpath(data.removesuffix(LEAVES))
    if os.path.isdir(folder) and inside(os.path.realpath(into), folder):
        raise DataError(
            f"{into} lies in the folder of the images: it would be a class", next_step="name a folder outside it"
        )


def move_unreadable(images: Sequence[tuple[Source, int]], into: Path) -> list[Path]:
    """Moves the files of these images to the same place below `into`; gives their new names.

    Raises DataError where an image is no file of a folder or a name is taken, before anything is moved; StorageError.
    """
    pairs = [_places(source, index, into) for source, index in images]
    if taken := [new for _, new in pairs if new.exists()]:
        raise DataError(f"{key_of(str(taken[0]))} exists already", next_step="name another folder")
    for old, new in pairs:
        with storage_errors(new, "check the folder, its permissions and the free space"):
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(old, new)
    return [new for _, new in pairs]


def _places(source: Source, index: int, into: Path) -> tuple[Path, Path]:
    """The file of an image, and its new name."""
    files, row = source.contents, int(source.rows[index])
    place = os.path.relpath(files.path(row), files.root) if isinstance(files, Files) else ".."
    if not isinstance(files, Files) or place.split(os.sep)[0] == ".." or not files.path(row).is_file():
        raise DataError(
            f"{source.keys[index]} is no file of a folder, so it cannot be moved", allowed="a folder of image files"
        )
    return files.path(row), into / place
