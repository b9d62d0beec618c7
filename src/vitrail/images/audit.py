"""Faults of a set of images, found before any training: unreadable files, duplicates, leaks, conflicts, imbalance.

The quick part reads the beginning of every file and finds exact duplicates; the whole decodes every image.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, UInt8

from vitrail.errors import DecodeError
from vitrail.images.audit_headers import Quick, member_of
from vitrail.images.decode import as_channels, decode, sniff
from vitrail.images.findings import Audit, Group, Member, summary
from vitrail.images.near_duplicates import SMALLEST, Print, find_near, fingerprint
from vitrail.images.samples import Source, Splits

__all__ = ["Audit", "Group", "Member", "check", "summary"]

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
    print: Print
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
    some = [member for member, look in looks.items() if member not in known and min(look.shape[:2]) >= SMALLEST]
    near = find_near(
        [looks[member].print for member in some],
        lambda at: _rgb(parts[some[at].part].pixels(some[at].index)),
    )
    mean, std = _moments(list(looks.values()))
    return replace(
        quick,
        groups=(*quick.groups, *(Group(tuple(some[at] for at in group), False) for group in near)),
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
    rgb = _rgb(image)
    shares = np.stack([np.bincount(channel.reshape(-1), minlength=256) for channel in np.moveaxis(image, 2, 0)], 1)
    sums = _LEVELS @ shares / shares[:, 0].sum()
    return Look(tuple(image.shape), sums, fingerprint(rgb), _misnamed(content, member.key))


def _rgb(image: UInt8[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    return as_channels(image, 3) if image.shape[2] in (1, 3) else np.ascontiguousarray(image[..., [0, 0, 0]])


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
