"""Images stored as the very same bytes, found by reading only those whose size another one has; and groups of pairs."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Int64

from vitrail.errors import DecodeError


def candidates(sizes: Int64[np.ndarray, "N"]) -> Int64[np.ndarray, "M"]:
    """Which images have a size that another has too."""
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    return np.flatnonzero(counts[inverse] > 1)


def same_bytes(
    read: Callable[[int], bytes | np.ndarray], among: Sequence[int] | Int64[np.ndarray, "M"]
) -> list[list[int]]:
    """Groups of images with the same content, in the order of their first; what cannot be read is in none."""
    groups: defaultdict[bytes, list[int]] = defaultdict(list)
    for index in map(int, among):
        try:
            content = read(index)
        except DecodeError:  # whoever decodes it says so
            continue
        groups[hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).digest()].append(index)
    return [group for group in groups.values() if len(group) > 1]


def join_pairs(pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """Images joined by pairs, directly or through others: each group sorted, in the order of their first."""
    parent: dict[int, int] = {}

    def root(image: int) -> int:
        while parent.setdefault(image, image) != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for first, second in pairs:
        parent[root(second)] = root(first)
    members: defaultdict[int, list[int]] = defaultdict(list)
    for image in sorted(parent):
        members[root(image)].append(image)
    return list(members.values())
