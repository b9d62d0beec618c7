"""The page of `vitrail data check`: findings, the pictures of them, sizes and classes, a contact sheet."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from vitrail.errors import DecodeError
from vitrail.images.audit import Audit, Group, Member
from vitrail.images.audit_headers import member_of
from vitrail.images.samples import Splits
from vitrail.reports.page import Facts, Gallery, Picture, Section, TableSection, Text
from vitrail.reports.tables import Column, Table

SHOWN = 60  # pictures of a gallery


def audit_sections(splits: Splits, audit: Audit) -> Iterator[Section]:
    """The page, empty sections left out."""
    found = "\n\n".join(audit.sentences()) or "Nothing is wrong with these images."
    yield Facts("Images", [(part, f"{number:,}") for part, number in audit.sizes.items()], style="tiles")
    yield Text("Findings", f"{splits.how}.\n\n{found}")
    for title, groups in _kinds(audit):
        yield Gallery(title, _copies(splits, groups), "copies side by side, a letter for each picture")
    lists: dict[str, tuple[Iterable[tuple], tuple[str, str]]] = {
        "Unreadable": (audit.unreadable, ("image", "reason")),
        "Misnamed": (audit.misnamed, ("image", "it is")),
        "Skipped files": (splits.skipped, ("file", "reason")),
    }
    for title, (pairs, names) in lists.items():
        if rows := tuple((str(one), why) for one, why in pairs):
            yield TableSection(title, Table(tuple(map(Column, names)), rows))
    if len(audit.shapes):
        yield Facts("Sizes and channels", sizes(audit))
    if audit.classes:
        parts = list(audit.counts)
        rows = tuple((name, *(int(audit.counts[part][k]) for part in parts)) for k, name in enumerate(audit.classes))
        yield TableSection("Classes", Table((Column("class"), *(Column(part, "{:,}") for part in parts)), rows))
    part, shown = next((part, source) for part, source in splits.parts.items() if len(source))
    sheet = [member_of(part, shown, k) for k in _spread(len(shown))]
    yield Gallery("Contact sheet", _pictures(splits, sheet), "images, evenly spread over the set")


def sizes(audit: Audit) -> list[tuple[str, str]]:
    """Rows on sizes, channels and levels; none where no image was decoded."""
    if not len(audit.shapes):
        return []
    heights, widths, channels = audit.shapes.T
    aspects = widths / heights
    rows = [(name, _spread_of(values)) for name, values in (("height", heights), ("width", widths))]
    rows.append(("width / height", f"{aspects.min():.2f} to {aspects.max():.2f}, median {np.median(aspects):.2f}"))
    counts = Counter(channels.tolist())
    rows.append(("channels", ", ".join(f"{c} ({counts[c]:,} images)" for c in sorted(counts))))
    for name, values in (("mean", audit.mean), ("std", audit.std)):
        rows.append((name, ", ".join(f"{value:.4f}" for value in values)))
    return rows


def _spread_of(values: np.ndarray) -> str:
    if values.min() == values.max():
        return f"{values[0]:,}"
    return f"{values.min():,} to {values.max():,}, median {np.median(values):,.0f}"


def _kinds(audit: Audit) -> Iterator[tuple[str, list[Group]]]:
    """Every group once, under the worst that is true of it."""
    rest = list(audit.groups)
    for title, wanted in (
        ("Learnt from and tested on", lambda group: group.leak),
        ("Two labels for one picture", lambda group: group.conflict),
        ("Needless copies", lambda group: True),
    ):
        yield title, [group for group in rest if wanted(group)]
        rest = [group for group in rest if not wanted(group)]


def _copies(splits: Splits, groups: Sequence[Group]) -> list[Picture]:
    shown: list[Picture] = []
    for number, group in enumerate(groups):
        letter = chr(ord("A") + number % 26)
        kind = "exact" if group.exact else "near"
        shown += _pictures(splits, group.members[:4], f"{letter}, {kind}: ")
        if len(shown) >= SHOWN:
            break
    return shown


def _pictures(splits: Splits, members: Sequence[Member], before: str = "") -> list[Picture]:
    pictures = []
    for member in members:
        try:
            image = splits.parts[member.part].picture(member.index)
        except DecodeError:  # it is in the table of the unreadable
            continue
        pictures.append(Picture(image, f"{before}{member.label}", str(member)))
    return pictures


def _spread(count: int) -> list[int]:
    return np.unique(np.linspace(0, count - 1, min(count, SHOWN)).astype(int)).tolist()
