"""Faults of a set of images, found before any training: unreadable files, duplicates, leaks, conflicts, imbalance.

The quick part reads the beginning of every file and finds exact duplicates; the whole decodes every image.
"""

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt64

from vitrail.errors import DecodeError
from vitrail.images.audit_headers import Quick, member_of
from vitrail.images.decode import as_channels, decode, sniff
from vitrail.images.findings import Audit, Group, Member, summary
from vitrail.images.preprocess import resize
from vitrail.images.samples import Source, Splits

__all__ = ["Audit", "Group", "Member", "check", "summary"]

NEAR_BITS = 3
"""Bits of 64 by which the difference hashes of near duplicates may differ."""
NEAR_LEVELS = 6.0
"""Levels of 255, the mean over thumbnails, by which their pixels may."""
SMALLEST = 32
"""Pixels of the shorter side below which near duplicates are not looked for: small pictures are all alike."""

_LEVELS = np.stack([np.arange(256) / 255, (np.arange(256) / 255) ** 2])
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png", ".apng"), "WebP": (".webp",), "GIF": (".gif",),
    "BMP": (".bmp", ".dib"), "TIFF": (".tif", ".tiff"), "npy": (".npy",),
}  # fmt: skip


def check(
    splits: Splits,
    *,
    quick: bool = False,
    seconds: float = math.inf,
    tick: Callable[[int], object] = lambda done: None,
) -> Audit:
    """Audits all parts of `splits`; `quick` reads beginnings of files only, for at most `seconds`.

    `tick` hears how many images are done.
    """
    parts = splits.parts
    found = Quick(parts, seconds).run(tick if quick else lambda done: None)
    audit = Audit(
        splits.train.classes,
        {name: len(source) for name, source in parts.items()},
        {name: source.counts for name, source in parts.items()},
        tuple(Group(group, True) for group in found.copies),
        splits.train.notes,
        tuple(found.unreadable),
        splits.published,
        found.cut,
    )
    return audit if quick else _whole(parts, audit, tick)


@dataclass(frozen=True, eq=False)
class Look:
    """Facts of one decoded image."""

    shape: tuple[int, int, int]
    sums: Float64[np.ndarray, "2 C"]
    """Mean and mean square of each channel, 0 … 1."""
    hashes: tuple[int, int]
    """Difference hash of the image, and of its mirror image."""
    thumbnail: UInt8[np.ndarray, "3 16 16"]
    misnamed: str = ""


def _whole(parts: dict[str, Source], quick: Audit, tick: Callable[[int], object]) -> Audit:
    looks: dict[Member, Look] = {}
    unreadable: list[tuple[Member, str]] = []
    members = [member_of(name, source, index) for name, source in parts.items() for index in range(len(source))]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = _in_blocks(pool, lambda member: _look(parts[member.part], member), members)
        for done, (member, look) in enumerate(zip(members, found, strict=True), 1):
            if isinstance(look, Look):
                looks[member] = look
            else:
                unreadable.append((member, look))
            tick(done)
    known = {member for group in quick.groups for member in group.members[1:]}
    near = _near(
        {member: look for member, look in looks.items() if member not in known and min(look.shape[:2]) >= SMALLEST}
    )
    mean, std = _moments(list(looks.values()))
    return replace(
        quick,
        groups=(*quick.groups, *(Group(group, False) for group in near)),
        unreadable=tuple(unreadable),
        misnamed=tuple((member, look.misnamed) for member, look in looks.items() if look.misnamed),
        shapes=np.array([look.shape for look in looks.values()], np.int64).reshape(-1, 3),
        mean=mean,
        std=std,
    )


def _in_blocks(pool: ThreadPoolExecutor, work: Callable[[Member], Look | str], members: Sequence[Member]) -> Iterable:
    """pool.map without holding a future for every image of a large set."""
    for start in range(0, len(members), 1024):
        yield from pool.map(work, members[start : start + 1024])


def _look(source: Source, member: Member) -> Look | str:
    """The facts of an image, or why it cannot be read."""
    try:
        content = source[member.index].content
        image = decode(content, key=member.key)
    except DecodeError as error:
        return error.found
    rgb = as_channels(image, 3) if image.shape[2] in (1, 3) else np.ascontiguousarray(image[..., [0, 0, 0]])
    shares = np.stack([np.bincount(channel.reshape(-1), minlength=256) for channel in np.moveaxis(image, 2, 0)], 1)
    sums = _LEVELS @ shares / shares[:, 0].sum()
    grey = resize(as_channels(rgb, 1), (8, 9), "bilinear")[0].numpy().astype(int)
    thumbnail = resize(rgb, (16, 16), "bilinear").numpy()
    return Look(
        tuple(image.shape),
        sums,
        (_difference_hash(grey), _difference_hash(grey[:, ::-1])),
        thumbnail,
        _misnamed(content, member.key),
    )


def _difference_hash(grey: Int64[np.ndarray, "8 9"]) -> int:
    """64 bits: whether each pixel is brighter than its left neighbour."""
    return int.from_bytes(np.packbits((grey[:, 1:] > grey[:, :-1]).reshape(-1)).tobytes(), "big")


def _misnamed(content: bytes | np.ndarray, key: str) -> str:
    suffix = os.path.splitext(key)[1].lower()
    kind = (sniff(content[:16]) or "").split(",")[0] if isinstance(content, bytes) else ""
    return (
        f"{kind} by its bytes"
        if suffix in sum(_SUFFIXES.values(), ()) and suffix not in _SUFFIXES.get(kind, (suffix,))
        else ""
    )


def _moments(looks: Sequence[Look]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of the channels, every image counting the same."""
    if not looks or len({look.sums.shape for look in looks}) > 1:
        looks = [look for look in looks if look.sums.shape[1] == 3]
    if not looks:
        return (), ()
    mean, square = np.mean([look.sums for look in looks], axis=0)
    return tuple(mean.round(4).tolist()), tuple(np.sqrt(square - mean**2).round(4).tolist())


# --- near duplicates ---------------------------------------------------------------------------------------------------


def _near(looks: dict[Member, Look]) -> list[tuple[Member, ...]]:
    """Groups whose difference hashes are within NEAR_BITS and whose thumbnails are within NEAR_LEVELS, mirrored or not.

    Hashes that differ in at most 3 bits agree in at least one of their four 16-bit quarters: only those are compared.
    """
    members = list(looks)
    count = len(members)
    hashes = np.array([look.hashes[side] for side in (0, 1) for look in looks.values()], np.uint64)
    thumbnails = np.stack([look.thumbnail for look in looks.values()]).astype(np.int16) if members else np.zeros(0)
    leader = list(range(count))

    def root(at: int) -> int:
        while leader[at] != at:
            leader[at] = leader[leader[at]]
            at = leader[at]
        return at

    def thumbnail(at: int) -> np.ndarray:
        return thumbnails[at] if at < count else thumbnails[at - count][..., ::-1]

    for block in _candidates(hashes):
        for at, first in enumerate(block[:-1].tolist()):
            rest = block[at + 1 :]
            close = np.bitwise_count(hashes[rest] ^ hashes[first]) <= NEAR_BITS
            for other in rest[close].tolist():
                if np.abs(thumbnail(first) - thumbnail(other)).mean() <= NEAR_LEVELS:
                    leader[root(other % count)] = root(first % count)
    groups: defaultdict[int, list[Member]] = defaultdict(list)
    for at, member in enumerate(members):
        groups[root(at)].append(member)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _candidates(hashes: UInt64[np.ndarray, "N"]) -> Iterator[Int64[np.ndarray, "M"]]:
    for quarter in range(4):
        values = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(values, kind="stable")
        yield from (b for b in np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(b) > 1)
