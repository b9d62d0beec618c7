"""Files that cannot be read, moved out of a folder of images."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from vitrail.errors import DataError
from vitrail.storage import storage_errors


def move_unreadable(data: Path, keys: Sequence[str], into: Path) -> list[Path]:
    """Moves the files `keys` of the folder `data` to the same place below `into`; gives their new names.

    Raises DataError where the data are no folder of files or a name is taken, before anything is moved; StorageError.
    """
    pairs = [(data / key, into / key) for key in keys]
    if absent := [old for old, _ in pairs if not old.is_file()]:
        raise DataError(f"{absent[0]} is no file of a folder, so it cannot be moved", allowed="a folder of image files")
    if taken := [new for _, new in pairs if new.exists()]:
        raise DataError(f"{taken[0]} exists already", next_step="name another folder")
    for old, new in pairs:
        with storage_errors(new, "check the folder, its permissions and the free space"):
            new.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(old, new)
    return [new for _, new in pairs]
