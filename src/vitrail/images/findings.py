"""The result of an audit of images, in words and numbers; some of it stops a training."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from vitrail.errors import DataError

IMBALANCE = 10.0
"""Largest class over smallest, from which on it is worth a sentence."""


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
        """Whether one is trained on and another is tested on."""
        return len({member.part for member in self.members}) > 1

    @property
    def conflict(self) -> bool:
        return len({member.label for member in self.members}) > 1

    @property
    def sides(self) -> str:
        """One member of every part, or of every label."""
        sides = {(member.part, member.label): member for member in self.members}
        members = list(sides.values()) if len(sides) > 1 else list(self.members)
        return " = ".join(map(str, members[:3])) + (" = …" if len(members) > 3 else "")


@dataclass(frozen=True, eq=False)
class Audit:
    """The result of an audit. The quick one leaves the fields after `cut` empty."""

    classes: tuple[str, ...]
    sizes: dict[str, int]
    """Images of each part."""
    counts: dict[str, Int64[np.ndarray, "K"]]
    """Images of each class, for each part."""
    groups: tuple[Group, ...]
    notes: tuple[str, ...] = ()
    unreadable: tuple[tuple[Member, str], ...] = ()
    published: bool = False
    """A benchmark's own split: its leaks are reported and stop nothing."""
    cut: str = ""
    """Which part was not checked in time; empty after a full check."""
    misnamed: tuple[tuple[Member, str], ...] = ()
    """Files whose name says another format than their first bytes."""
    shapes: Int64[np.ndarray, "N 3"] = field(default_factory=lambda: np.zeros((0, 3), np.int64))
    """Height, width and channels of every readable image."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    """Mean and deviation of all pixels, 0 … 1, as `Preprocess` takes them."""

    @property
    def images(self) -> int:
        return sum(self.sizes.values())

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
        """The findings in sentences, worst first."""
        if self.unreadable:
            yield f"{counted(len(self.unreadable), 'image')} cannot be read, the first {self.unreadable[0][0]}"
        yield from self._copies(True)
        yield from self._copies(False)
        if self.misnamed:
            member, kind = self.misnamed[0]
            yield f"{counted(len(self.misnamed), 'file')} named as another format, the first {member}: {kind}"
        if self.imbalance >= IMBALANCE:
            counts = self.counts["train"]
            few, many = np.where(counts > 0, counts, counts.max()).argmin(), counts.argmax()
            yield (
                f"class {self.classes[many]!r} has {counts[many]:,} training images, {self.classes[few]!r} {counts[few]:,}"
            )
        yield from self._odd_shapes()
        if self.cut:
            yield self.cut
        yield from self.notes

    def _odd_shapes(self) -> Iterator[str]:
        """Pictures of which a square cut shows little, that are small among larger ones, or grey among colour."""
        if not len(self.shapes):
            return
        heights, widths, channels = self.shapes.T
        aspects = np.maximum(heights / widths, widths / heights)
        if long := int((aspects > LONG).sum()):
            side = f"the longest {aspects.max():.0f} : 1"
            yield f"{counted(long, 'picture')} more than {LONG} times as long as wide, {side}: a cut from the centre shows little"
        shorter = np.minimum(heights, widths)
        if small := int((shorter < min(SMALL, np.median(shorter) / 2)).sum()):
            yield f"{counted(small, 'picture')} with a side below {SMALL} pixels among larger ones, the least {shorter.min()}"
        kinds, numbers = np.unique(channels, return_counts=True)
        if len(kinds) > 1:
            each = ", ".join(f"{number:,} of {kind}" for kind, number in zip(kinds, numbers, strict=True))
            yield f"pictures differ in their number of channels: {each}"

    def _copies(self, exact: bool) -> Iterator[str]:
        kind = "exact" if exact else "near"
        groups = [group for group in self.groups if group.exact == exact]
        leaks = [group for group in groups if group.leak]
        conflicts = [group for group in groups if group.conflict]
        if leaks:
            yield f"{counted(len(leaks), 'picture')} in training and test data ({kind}): {leaks[0].sides}"
        if conflicts:
            yield f"{counted(len(conflicts), 'picture')} with two labels ({kind}): {conflicts[0].sides}"
        rest = [group for group in groups if not group.leak and not group.conflict]
        if rest:
            extra = sum(len(group.members) - 1 for group in rest)
            yield f"{counted(extra, 'needless copy', 'needless copies')} ({kind}), the first {rest[0].sides}"

    def stops(
        self, most_unreadable: Callable[[int], int] | None, *, allow_leaks: bool = False
    ) -> tuple[DataError, ...]:
        """The findings that stop a training: exact leaks, and too many unreadable images in a part.

        `most_unreadable` says how many of so many images may be; None allows all. Near duplicates
        and conflicting labels stop nothing: they may be intended.
        """
        found = []
        exact = [group for group in self.leaks if group.exact]
        if exact and not allow_leaks and not self.published:
            found.append(
                DataError(
                    f"{counted(len(exact), 'picture')} in training and test data, the first {exact[0].sides}",
                    allowed="held-out images that are not trained on: their score would mean nothing",
                    next_step="remove one side (`vitrail data check` lists them all), or add `allow_leaks=True`",
                )
            )
        for part, images in self.sizes.items():
            lost = [why for member, why in self.unreadable if member.part == part]
            if most_unreadable and len(lost) > most_unreadable(images):
                found.append(_unreadable(lost, part, most_unreadable(images)))
        return tuple(found)


def _unreadable(lost: Sequence[str], part: str, most: int) -> DataError:
    which = "training" if part == "train" else "held-out"
    more = "; …" if len(lost) > 3 else ""
    return DataError(
        f"{counted(len(lost), f'{which} image')} cannot be read: {'; '.join(lost[:3])}{more}",
        allowed=f"{most} of them",
        next_step="remove or replace them (`vitrail data check` lists them), or add --skip-unreadable",
    )


LONG = 4
"""Times the length of a picture over its width above which it is reported."""
SMALL = 32
"""Pixels of the shorter side below which a picture is reported where others are larger."""


def counted(number: int, one: str, many: str = "") -> str:
    return f"1 {one}" if number == 1 else f"{number:,} {many or one + 's'}"


def summary(audit: Audit) -> dict[str, int]:
    """The numbers of an audit, for tables and JSON."""
    return {
        "images": audit.images,
        "classes": len(audit.classes),
        "unreadable": len(audit.unreadable),
        "exact duplicates": sum(len(group.members) - 1 for group in audit.groups if group.exact),
        "near duplicates": sum(len(group.members) - 1 for group in audit.groups if not group.exact),
        "leaks": len(audit.leaks),
        "conflicting labels": len(audit.conflicts),
        "misnamed files": len(audit.misnamed),
        "sizes": len(Counter(map(tuple, audit.shapes[:, :2].tolist()))),
    }
