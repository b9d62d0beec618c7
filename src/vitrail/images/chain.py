"""Several sources as one, in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64

from vitrail.images.samples import Arrays, Contents, Source


@dataclass(frozen=True, eq=False)
class Chain:
    """Contents one after the other."""

    parts: tuple[Contents, ...]

    @cached_property
    def starts(self) -> Int64[np.ndarray, "P"]:
        return np.cumsum([0, *(len(part.sizes) for part in self.parts[:-1])])

    def read(self, index: int) -> bytes | np.ndarray:
        part = int(np.searchsorted(self.starts, index, side="right")) - 1
        return self.parts[part].read(index - int(self.starts[part]))

    @property
    def sizes(self) -> Int64[np.ndarray, "N"]:
        return np.concatenate([part.sizes for part in self.parts])


def chain(parts: Sequence[Contents]) -> Contents:
    """Contents one after the other; arrays of one shape become one array."""
    arrays = [part.array for part in parts if isinstance(part, Arrays)]
    if len(arrays) == len(parts) and len({array.shape[1:] for array in arrays}) == 1:
        return Arrays(np.concatenate(arrays))
    return Chain(tuple(parts))


def join(sources: Sequence[Source]) -> Source:
    """Sources of the same classes as one, in order."""
    first = sources[0]
    assert all(source.classes == first.classes for source in sources)
    starts = np.cumsum([0, *(len(source.contents.sizes) for source in sources)])
    return Source(
        first.name,
        first.classes,
        np.concatenate([source.labels for source in sources]),
        [key for source in sources for key in source.keys],
        chain([source.contents for source in sources]),
        np.concatenate([source.rows + start for source, start in zip(sources, starts, strict=False)]),
    )
