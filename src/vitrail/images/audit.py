"""What is wrong with a set of images, found before any training: unreadable files, duplicates, leaks, conflicts, imbalance.

The quick part reads only files that have another's size, and finds every exact duplicate; the whole decodes every image.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float64, Int64, UInt8, UInt64

from vitrail.errors import DataError, DecodeError
from vitrail.images.copies import candidates, same_bytes
from vitrail.images.decode import as_channels, decode, sniff
from vitrail.images.preprocess import resize
from vitrail.images.samples import Source, Splits

NEAR_BITS = 3
"""Bits of 64 by which the difference hashes of near duplicates may differ."""
NEAR_LEVELS = 6.0
"""Levels of 255, the mean over thumbnails, by which their pixels may."""
SMALLEST = 32
"""Pixels of the shorter side below which near duplicates are not looked for: small pictures are all alike."""
IMBALANCE = 10.0
"""Largest class over smallest, from which on it is worth a sentence."""

_LEVELS = np.stack([np.arange(256) / 255, (np.arange(256) / 255) ** 2])
_SUFFIXES = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"), "PNG": (".png", ".apng"), "WebP": (".webp",), "GIF": (".gif",),
    "BMP": (".bmp", ".dib"), "TIFF": (".tif", ".tiff"), "npy": (".npy",),
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """One image of a set."""

    part: str
    index: int
    key: str
    label: str

    def __str__(self) -> str:
        return f"{self.part}: {self.key}"


@dataclass(frozen=True)
class Group:
    """Images that show the same, byte for byte or nearly."""

    members: tuple[Member, ...]
    exact: bool

    @property
    def leak(self) -> bool:
        """Learnt from in one part and tested on in another."""
        return len({member.part for member in self.members}) > 1

    @property
    def conflict(self) -> bool:
        return len({member.label for member in self.members}) > 1


@dataclass(frozen=True, eq=False)
class Audit:
    """What was found. The fields after `groups` are of the whole audit only."""

    classes: tuple[str, ...]
    counts: dict[str, Int64[np.ndarray, "K"]]
    """Images of each class, for each part."""
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    unreadable: tuple[tuple[Member, str], ...] = ()
    misnamed: tuple[tuple[Member, str], ...] = ()
    """Files whose name says another format than their first bytes."""
    shapes: Int64[np.ndarray, "N 3"] = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    """Height, width and channels of every readable image."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Of all pixels as RGB (or grey, where all are), 0 … 1: what `Preprocess` may be given."""

    @property
    def leaks(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.leak)

    @property
    def conflicts(self) -> tuple[Group, ...]:
        return tuple(group for group in self.groups if group.conflict)

    @property
    def imbalance(self) -> float:
        """The largest class of the training images over the smallest."""
        counts = self.counts["train"][self.counts["train"] > 0]
        return float(counts.max() / counts.min()) if len(counts) else 1.0

    def sentences(self) -> Iterator[str]:
        """What a person should know, worst first."""
        if self.unreadable:
            yield _count(len(self.unreadable), "image") + f" cannot be read, the first {self.unreadable[0][0]}"
        for exact, kind in ((True, "exact"), (False, "near")):
            groups = [group for group in self.groups if group.exact == exact]
            leaks = [group for group in groups if group.leak]
            conflicts = [group for group in groups if group.conflict]
            if leaks:
                yield f"{_count(len(leaks), 'picture')} to learn from and to test on ({kind}): {_sides(leaks[0])}"
            if conflicts:
                yield f"{_count(len(conflicts), 'picture')} with two labels ({kind}): {_sides(conflicts[0])}"
            rest = [group for group in groups if not group.leak and not group.conflict]
            if rest:
                extra = sum(len(group.members) - 1 for group in rest)
                yield f"{_count(extra, 'needless copy', 'needless copies')} ({kind}), the first {_sides(rest[0])}"
        if self.misnamed:
            member, kind = self.misnamed[0]
            yield _count(len(self.misnamed), "file") + f" named as another format, the first {member}: {kind}"
        if self.imbalance >= IMBALANCE:
            counts = self.counts["train"]
            few, many = np.where(counts > 0, counts, counts.max()).argmin(), counts.argmax()
            yield (
                f"class {self.classes[many]!r} has {counts[many]:,} training images, {self.classes[few]!r} {counts[few]:,}"
            )
        yield from self.notes

    def stop_on_leaks(self) -> None:
        """Raises DataError where exact copies of training images are tested on."""
        if leaks := [group for group in self.leaks if group.exact]:
            raise DataError(
                f"{_count(len(leaks), 'picture')} to learn from and to test on, the first {_sides(leaks[0])}",
                next_step="remove one side (`vitrail data check` lists them all), or say that it is meant to be so",
            )


def _count(number: int, one: str, many: str = "") -> str:
    return f"1 {one}" if number == 1 else f"{number:,} {many or one + 's'}"


def _sides(group: Group) -> str:
    """One member of every part, or of every label."""
    sides = {(member.part, member.label): member for member in group.members}
    members = list(sides.values()) if len(sides) > 1 else list(group.members)
    return " = ".join(map(str, members[:3])) + (" = …" if len(members) > 3 else "")


def check(splits: Splits, *, quick: bool = False, tick: Callable[[int], object] = lambda done: None) -> Audit:
    """Audits all parts of `splits`. `tick` hears how many images are done."""
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    parts = {name: source for name, source in parts.items() if source is not None}
    members = [member for name, source in parts.items() for member in _members(name, source)]
    counts = {name: source.counts for name, source in parts.items()}
    exact = tuple(Group(group, True) for group in _copies(parts, members))
    if quick:
        return Audit(splits.train.classes, counts, exact, splits.train.notes)
    return _whole(parts, members, counts, exact, splits.train, tick)


def _members(part: str, source: Source) -> Iterator[Member]:
    for index, key in enumerate(source.keys):
        if source.multi_label:
            label = " + ".join(name for name, on in zip(source.classes, source.labels[index], strict=True) if on)
        else:
            label = source.classes[int(source.labels[index])]
        yield Member(part, index, key, label)


# --- exact duplicates --------------------------------------------------------------------------------------------------


def _copies(parts: dict[str, Source], members: Sequence[Member]) -> list[tuple[Member, ...]]:
    sizes = np.concatenate([source.contents.sizes[source.rows] for source in parts.values()])

    def read(index: int) -> bytes | np.ndarray:
        return parts[members[index].part][members[index].index].content

    return [tuple(members[index] for index in group) for group in same_bytes(read, candidates(sizes))]


# --- the whole ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Look:
    """What one decoded image tells."""

    shape: tuple[int, int, int]
    sums: Float64[np.ndarray, "2 C"]
    """Mean and mean square of each channel, 0 … 1."""
    hash: int
    thumbnail: UInt8[np.ndarray, "3 16 16"]
    misnamed: str = ""


def _whole(
    parts: dict[str, Source],
    members: Sequence[Member],
    counts: dict[str, Int64[np.ndarray, "K"]],
    exact: tuple[Group, ...],
    train: Source,
    tick: Callable[[int], object],
) -> Audit:
    looks: dict[Member, Look] = {}
    unreadable: list[tuple[Member, str]] = []
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = _in_blocks(pool, lambda member: _look(parts[member.part], member), members)
        for done, (member, look) in enumerate(zip(members, found, strict=True), 1):
            if isinstance(look, Look):
                looks[member] = look
            else:
                unreadable.append((member, look))
            tick(done)
    shapes = np.array([look.shape for look in looks.values()], np.int64).reshape(-1, 3)
    known = {member for group in exact for member in group.members[1:]}
    near = _near(
        {member: look for member, look in looks.items() if member not in known and min(look.shape[:2]) >= SMALLEST}
    )
    mean, std = _moments(list(looks.values()))
    return Audit(
        train.classes,
        counts,
        (*exact, *(Group(group, False) for group in near)),
        train.notes,
        tuple(unreadable),
        tuple((member, look.misnamed) for member, look in looks.items() if look.misnamed),
        shapes,
        mean,
        std,
    )


def _in_blocks(pool: ThreadPoolExecutor, work: Callable[[Member], Look | str], members: Sequence[Member]) -> Iterable:
    """pool.map without holding a future for every image of a large set."""
    for start in range(0, len(members), 1024):
        yield from pool.map(work, members[start : start + 1024])


def _look(source: Source, member: Member) -> Look | str:
    """What the image tells, or why it cannot be read."""
    try:
        content = source[member.index].content
        image = decode(content, key=member.key) if isinstance(content, bytes) else content
    except DecodeError as error:
        return error.found
    rgb = as_channels(image, 3) if image.shape[2] in (1, 3) else np.ascontiguousarray(image[..., [0, 0, 0]])
    shares = np.stack([np.bincount(channel.reshape(-1), minlength=256) for channel in np.moveaxis(image, 2, 0)[:3]], 1)
    sums = _LEVELS @ shares / shares[:, 0].sum()
    grey = resize(as_channels(rgb, 1), (8, 9), "bilinear")[0].numpy().astype(int)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).reshape(-1))
    thumbnail = resize(rgb, (16, 16), "bilinear").numpy()
    return Look(
        tuple(image.shape), sums, int.from_bytes(bits.tobytes(), "big"), thumbnail, _misnamed(content, member.key)
    )


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
    """Groups whose difference hashes are within NEAR_BITS and whose thumbnails are within NEAR_LEVELS.

    Hashes that differ in at most 3 bits agree in at least one of their four 16-bit quarters: only those are compared.
    """
    members = list(looks)
    hashes = np.array([looks[member].hash for member in members], np.uint64)
    thumbnails = np.stack([look.thumbnail for look in looks.values()]).astype(np.int16) if members else np.zeros(0)
    leader = list(range(len(members)))

    def root(at: int) -> int:
        while leader[at] != at:
            leader[at] = leader[leader[at]]
            at = leader[at]
        return at

    for block in _candidates(hashes):
        for at, first in enumerate(block[:-1]):
            rest = block[at + 1 :]
            close = np.bitwise_count(hashes[rest] ^ hashes[first]) <= NEAR_BITS
            for other in rest[close]:
                if np.abs(thumbnails[first] - thumbnails[other]).mean() <= NEAR_LEVELS:
                    leader[root(int(other))] = root(int(first))
    groups: defaultdict[int, list[Member]] = defaultdict(list)
    for at, member in enumerate(members):
        groups[root(at)].append(member)
    return [tuple(group) for group in groups.values() if len(group) > 1]


def _candidates(hashes: UInt64[np.ndarray, "N"]) -> Iterator[Int64[np.ndarray, "M"]]:
    for quarter in range(4):
        values = (hashes >> np.uint64(16 * quarter)) & np.uint64(0xFFFF)
        order = np.argsort(values, kind="stable")
        yield from (b for b in np.split(order, np.flatnonzero(np.diff(values[order])) + 1) if len(b) > 1)


def summary(audit: Audit) -> dict[str, int]:
    """The numbers of an audit, for tables and JSON."""
    return {
        "images": int(sum(counts.sum() for counts in audit.counts.values())),
        "classes": len(audit.classes),
        "unreadable": len(audit.unreadable),
        "exact duplicates": sum(len(group.members) - 1 for group in audit.groups if group.exact),
        "near duplicates": sum(len(group.members) - 1 for group in audit.groups if not group.exact),
        "leaks": len(audit.leaks),
        "conflicting labels": len(audit.conflicts),
        "misnamed files": len(audit.misnamed),
        "sizes": len(Counter(map(tuple, audit.shapes[:, :2].tolist()))),
    }
