"""Every error a person can meet, in one tree.

```
VitrailError                exit 70  something of ours broke
├── ConfigError             exit 78  an option, recipe or config cannot mean anything
│   └── ShapeError          exit 78  an image, patch, window or tensor does not fit
├── DataError               exit 65  the images or labels are not what they should be
│   └── DecodeError         exit 65  one file is not a picture we can read
├── WeightsError            exit 65  a weights file is unknown, damaged or does not fit
├── StorageError            exit 74  a disk said no
│   └── CheckpointError     exit 74  a checkpoint is missing, damaged or unfinished
├── MemoryRanOut            exit 71  the machine or the GPU has not the memory that was asked for
├── NonFiniteError          exit 70  a loss or gradient became NaN or infinite
└── Preempted               exit 143 a signal asked the run to stop; a checkpoint was written
```

Each says what was found, what is allowed and what to do next, in one paragraph for the person at the keyboard.
`assert` is for us; these are for them.
"""

import difflib
import errno
import re
from collections.abc import Iterable


class VitrailError(Exception):
    """Base of the tree. `str(error)` is one short paragraph: found; allowed; next step."""

    exit_code = 70

    def __init__(self, found: str, *, allowed: str = "", next_step: str = "") -> None:
        self.found, self.allowed, self.next_step = found, allowed, next_step
        sentences = [found, f"allowed: {allowed}" if allowed else "", next_step]
        super().__init__("; ".join(part for part in sentences if part))


class ConfigError(VitrailError, ValueError):
    """An option, recipe or config that cannot mean anything."""

    exit_code = 78


class ShapeError(ConfigError):
    """An image, patch, window or tensor that does not fit."""


class DataError(VitrailError, ValueError):
    """Images or labels that are not what they should be."""

    exit_code = 65


class DecodeError(DataError):
    """One file that is not a picture we can read: `key` says which, `reason` why. `found` is both."""

    def __init__(self, reason: str, *, key: str = "", allowed: str = "", next_step: str = "") -> None:
        super().__init__(f"{key}: {reason}" if key else reason, allowed=allowed, next_step=next_step)
        self.key, self.reason = key, reason

    def named(self, key: str) -> "DecodeError":
        """The same error of the image `key`."""
        return DecodeError(self.reason, key=key, allowed=self.allowed, next_step=self.next_step)


class WeightsError(VitrailError, ValueError):
    """A weights file that is unknown, damaged or does not fit."""

    exit_code = 65


class StorageError(VitrailError, OSError):
    """A disk, a folder or a permission said no."""

    exit_code = 74


class CheckpointError(StorageError):
    """A checkpoint that is missing, damaged or unfinished."""


class MemoryRanOut(VitrailError, MemoryError):
    """The machine or the GPU does not have the memory that was asked for."""

    exit_code = 71


class NonFiniteError(VitrailError, ArithmeticError):
    """A loss or gradient that became NaN or infinite; raised before the optimiser step."""


class Preempted(VitrailError):
    """A signal asked the run to stop; its checkpoint is written."""

    exit_code = 143


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def refusal(error: BaseException, doing: str, smaller: str) -> VitrailError | None:
    """What the machine refused, as an error of ours: memory, whoever says so (on the CPU torch raises a plain
    RuntimeError), or room on a disk; None where it is neither. `smaller` says how to need less memory."""
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = error.filename or "a file"
        return StorageError(
            f"{where} could not be written while {doing} ({error.strerror})",
            next_step="what was finished is kept; free some space, or choose another folder, and go on",
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        asked = re.search(r"(?:ried to allocate|nable to allocate) ([\d.]+ ?\w+)", str(error))
        more = f" ({asked[1]} more were asked for)" if asked else ""
        return MemoryRanOut(f"the memory ran out while {doing}{more}", next_step=smaller)
    return None


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'vit-b/16'?`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
