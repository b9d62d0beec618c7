"""Images stored as the very same bytes, found by reading only those whose size another one has; and groups of pairs."""

import contextlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from vitrail.errors import DecodeError
from vitrail.images.content_keys import content_key

T = TypeVar("T")


def candidates(sizes: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "M"]:
    """Which images have a size that another has too."""
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] > 1)


def group_alike(keyed: Iterable[tuple[Hashable, T]]) -> list[list[T]]:
    """The groups of two items or more that have one key, in the order of their first."""
    groups: defaultdict[Hashable, list[T]] = defaultdict(list)
    for key, item in keyed:
        groups[key].append(item)
    return [group for group in groups.values() if len(group) > 1]


def same_bytes(
    read: Callable[[int], bytes | np.ndarray], among: Sequence[int] | Int64[np.ndarray, "M"]
) -> list[list[int]]:
    """Groups of images with the same content, in the order of their first; what cannot be read is in none."""

    def keyed() -> Iterator[tuple[bytes, int]]:
        for index in map(int, among):
            with contextlib.suppress(DecodeError):  # whoever decodes it says so
                yield content_key(read(index)), index

    return group_alike(keyed())


class Joined:
    """Images joined by pairs, directly or through others."""

    def __init__(self, pairs: Iterable[tuple[int, int]] = ()) -> None:
        self._parent: dict[int, int] = {}
        for first, second in pairs:
            self.join(first, second)

    def root(self, image: int) -> int:
        """The image that stands for the group of this one."""
        while self._parent.setdefault(image, image) != image:
            self._parent[image] = self._parent[self._parent[image]]
            image = self._parent[image]
        return image

    def join(self, first: int, second: int) -> None:
        self._parent[self.root(second)] = self.root(first)

    def groups(self) -> list[list[int]]:
        """Those of two images or more: each sorted, in the order of their first."""
        return group_alike((self.root(image), image) for image in sorted(self._parent))
