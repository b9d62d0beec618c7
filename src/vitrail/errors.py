"""Every error that a person can meet, in one tree.

```
VitrailError                exit 70   a fault inside Vitrail
├── ConfigError             exit 78   an option, recipe or config that is not allowed
│   ├── ShapeError          exit 78   an image, patch, window or tensor that does not fit
│   ├── DoesNotApply        exit 78   a question that this model or these images cannot answer
│   └── RunInUse            exit 78   another process works in this folder
├── DataError               exit 65   images or labels that cannot be used
│   └── DecodeError         exit 65   one file that cannot be read as an image
├── WeightsError            exit 65   a weights file that is unknown, damaged or does not fit
├── StorageError            exit 74   a disk, folder or permission that refuses
│   └── CheckpointError     exit 74   a checkpoint that is missing, damaged or unfinished
├── MemoryRanOut            exit 71   more memory was asked for than there is
├── NonFiniteError          exit 70   a loss, gradient or answer that is NaN or infinite
├── RankLost                exit 70   another process of the run died or stopped answering
└── Preempted               exit 143  a signal asked the run to stop; a checkpoint was written
```

Each says what was found, what is allowed and what to do next, in one paragraph. An `assert` is for the developers.
"""

import contextlib
import difflib
import errno
import re
from collections.abc import Iterable, Iterator


class VitrailError(Exception):
    """Base of the tree. `str(error)` is one short paragraph: found; allowed; next step. "did you mean" comes before allowed."""

    exit_code = 70

    def __init__(self, found: str, *, allowed: str = "", next_step: str = "") -> None:
        self.found, self.allowed, self.next_step = found, allowed, next_step
        sentences = [found, f"allowed: {allowed}" if allowed else "", next_step]
        if next_step.startswith("did you mean"):  # a long list would bury it
            sentences = [found, next_step, *sentences[1:2]]
        super().__init__("; ".join(part for part in sentences if part))


class ConfigError(VitrailError, ValueError):
    """An option, recipe or config that is not allowed."""

    exit_code = 78


class ShapeError(ConfigError):
    """An image, patch, window or tensor that does not fit."""


class DoesNotApply(ConfigError):
    """A question that this model or these images cannot answer."""


class RunInUse(ConfigError):
    """Another process works in this folder."""


class DataError(VitrailError, ValueError):
    """Images or labels that cannot be used."""

    exit_code = 65


class DecodeError(DataError):
    """One file that cannot be read as an image."""

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
    """A disk, folder or permission that refuses."""

    exit_code = 74


class CheckpointError(StorageError):
    """A checkpoint that is missing, damaged or unfinished."""


class MemoryRanOut(VitrailError, MemoryError):
    """More memory was asked for than there is."""

    exit_code = 71


class NonFiniteError(VitrailError, ArithmeticError):
    """A loss, gradient or answer that is NaN or infinite; in training raised before the optimiser step."""


class RankLost(VitrailError):
    """Another process of the run died or stopped answering."""


class Preempted(VitrailError):
    """A signal asked the run to stop; its checkpoint is written."""

    exit_code = 143


_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "Cannot allocate memory")
_NO_MEMORY += ("failed to map segment", "could not create a primitive", "std::bad_alloc", "can't start new thread")
_NO_PATH = (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR)
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def recognise_error(error: BaseException, doing: str, next_step: str) -> VitrailError | None:
    """The error in our words where memory ran out or a disk refused; None for any other.

    `doing` says what failed, `next_step` how to need less memory. torch raises a plain RuntimeError for memory on a CPU.
    """
    if isinstance(error, OSError) and error.errno in _NO_ROOM:
        where = error.filename or "a file"
        return StorageError(
            f"{where} could not be written while {doing} ({error.strerror})",
            next_step="finished files are kept; free some space, or choose another folder, and try again",
        )
    if isinstance(error, OSError) and error.errno in _NO_PATH:
        where = str(error.filename or "a path")
        return StorageError(
            f"{where if len(where) < 200 else where[:200] + '…'}: {error.strerror}",
            next_step="check the name and its folder",
        )
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        asked = re.search(r"(?:ried to allocate|nable to allocate) ([\d.]+ ?\w+)", str(error))
        more = f" ({_in_gib(asked[1])} more were asked for)" if asked else ""
        return MemoryRanOut(f"the memory ran out while {doing}{more}", next_step=next_step)
    return None


def _in_gib(size: str) -> str:
    """ "37632000000 bytes" as "35.0 GiB"; other units stay."""
    number, _, unit = size.partition(" ")
    return f"{float(number) / 2**30:.1f} GiB" if unit == "bytes" else size


@contextlib.contextmanager
def translate_errors(doing: str, next_step: str) -> Iterator[None]:
    """Inside, want of memory becomes MemoryRanOut and a disk that refuses becomes StorageError."""
    try:
        yield
    except VitrailError:
        raise
    except Exception as error:
        if known := recognise_error(error, doing, next_step):
            raise known from error
        raise


def suggest(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'vit-b/16'?`, or an empty string when nothing is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
