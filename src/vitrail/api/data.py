"""`vitrail.check_data`, `clean_data` and `pack_data`: what is wrong with images, doubtful labels, and shards of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vitrail.api.audit_page import audit_sections, sizes
from vitrail.api.evaluate import Measured, measure, table_doubts
from vitrail.api.models import Model
from vitrail.arguments import Precision, Say
from vitrail.batches.loader import most_unreadable
from vitrail.errors import ConfigError, DataError
from vitrail.evaluation.embedding import every_part
from vitrail.images import shards
from vitrail.images.audit import Audit, Member, check, summary
from vitrail.images.findings import counted
from vitrail.images.samples import Splits
from vitrail.images.sources import open_data, open_unlabelled
from vitrail.images.unreadable import check_place, move_unreadable
from vitrail.reports.page import Gallery, Picture, Section, write_page
from vitrail.reports.progress import progress
from vitrail.reports.tables import Table

DECODED = "near duplicates", "misnamed files", "sizes"
"""Counts that need whole images; without it a 0 would be a guess."""
PARTS: tuple[Literal["train", "test", "val"], ...] = ("train", "test", "val")
PICTURES = 60
"""Pictures of each page section, at most."""


@dataclass(frozen=True, eq=False)
class Checked:
    """The findings in a set of images."""

    splits: Splits
    audit: Audit
    stops: tuple[DataError, ...]
    """Errors that a training would raise."""
    quick: bool
    moved: tuple[Path, ...] = ()
    """Unreadable files, where they are now."""

    def rows(self) -> list[tuple[str, str]]:
        """Counts, sizes and channels as rows of text."""
        unknown = DECODED if self.quick else ()
        counts = [(what, f"{number:,}") for what, number in summary(self.audit).items() if what not in unknown]
        return [*counts, *sizes(self.audit)]

    def sentences(self) -> list[str]:
        """How the images are split, and each finding."""
        left = [f"not looked at: {', '.join(DECODED)}; leave out `quick`"] if self.quick else []
        stops = [f"a training stops at this: {stop.found}" for stop in self.stops]
        return [self.splits.how, *self.audit.sentences(), *left, *stops]

    def facts(self) -> dict[str, Any]:
        """All of it, for programs: numbers, texts, lists and dicts."""
        audit = self.audit

        def named(member: Member, **more: str) -> dict[str, str]:
            return {"part": member.part, "key": member.key, **more}

        counts = {part: dict(zip(audit.classes, each.tolist(), strict=True)) for part, each in audit.counts.items()}
        groups = [
            {name: getattr(group, name) for name in ("exact", "leak", "conflict")}
            | {"images": [named(member, label=member.label) for member in group.members]}
            for group in audit.groups
        ]
        return {
            "split": self.splits.how, **{name.replace(" ", "_"): number for name, number in summary(audit).items()},
            "parts": audit.sizes, "per_class": counts, "groups": groups, "mean": audit.mean, "std": audit.std,
            "unreadable_images": [named(member, reason=reason) for member, reason in audit.unreadable],
            "skipped_files": [{"key": key, "reason": reason} for key, reason in self.splits.skipped],
            "misnamed": [named(member) | {"is": kind} for member, kind in audit.misnamed],
            "channels": {str(c): int((audit.shapes[:, 2] == c).sum()) for c in np.unique(audit.shapes[:, 2])},
            "sentences": list(audit.sentences()), "stops": [stop.found for stop in self.stops],
        }  # fmt: skip


def check_data(
    data: str | Path | Splits, *, html: str | Path | None = None, quick: bool = False, unlabelled: bool = False,
    move_bad: str | Path | None = None, holdout: float = 0.2, download: bool = False, follow_links: bool = False,
    quiet: bool = False,
) -> Checked:  # fmt: skip
    """Looks at every image of a set: unreadable files, copies, leaks between training and test images, wrong labels.

        vitrail.check_data("./photos").sentences()

    Raises DataError, StorageError.

    Args:
        html: Also write one self-contained page with the pictures here.
        quick: Only what `train` looks at first: exact copies and headers; no image is decoded.
        move_bad: Move the files that cannot be read into this new folder, at the same place in it. Nothing is deleted.
    """
    if move_bad is not None:
        if isinstance(data, Splits):
            raise ConfigError("move_bad and images that are open", next_step="give their folder")
        check_place(str(data), Path(move_bad))
    if isinstance(data, Splits):
        splits = data
    elif unlabelled:
        splits = open_unlabelled(str(data), follow_links=follow_links)
    else:
        splits = open_data(data, holdout=holdout, download=download, follow_links=follow_links)
    with progress(count_images(splits), "Checking", quiet=quiet) as bar:
        audit = check(splits, quick=quick, tick=bar.update)
    moved: Sequence[Path] = ()
    if move_bad is not None:
        bad = [(splits.parts[member.part], member.index) for member, _ in audit.unreadable]
        moved = move_unreadable(bad, Path(move_bad))
    if html is not None:
        write_page(html, f"The images of {title_of(data)}", list(audit_sections(splits, audit)))
    stops = [*audit.stops(most_unreadable), *([] if unlabelled else too_few_classes(splits))]
    return Checked(splits, audit, tuple(stops), quick, tuple(moved))


def too_few_classes(splits: Splits) -> Iterator[DataError]:
    """The error of a training on images of one class."""
    source = splits.train
    if len(source.classes) < 2 and not source.numeric:
        yield DataError(f"{source.name} has {counted(len(source.classes), 'class', 'classes')}", allowed="two or more")


def clean_data(
    model: Model, data: str | Path | Splits, *, most: int = 50, out: str | Path | None = None,
    html: str | Path | None = None, batch: int = 64, device: str = "auto", precision: Precision = "auto", workers: int = -1,
    download: bool = False, follow_links: bool = False, say: Say = lambda text: None,
) -> Table:  # fmt: skip
    """The `most` labels that a model doubts most, where it is surest of another class. Nothing is moved or changed.

        vitrail.clean_data("runs/photos-1", "./photos").rows

    Raises DataError for images with several labels.

    Args:
        data: Labelled images, as for `vitrail train`; all parts are looked at.
        most: How many labels are listed.
        out: A CSV or JSON file for the list; without it the list is printed.
        html: Also write a page with the pictures here, one section for each pair of classes.
    """
    splits = open_data(data, download=download, follow_links=follow_links)
    how: dict[str, Any] = {"batch": batch, "device": device, "precision": precision, "workers": workers, "say": say}
    found = [measure(model, splits, split=part, **how) for part in PARTS if part in every_part(splits)]
    table = table_doubts(found, most)
    if out is not None:
        table.write(Path(out))
    if html is not None:
        write_page(html, f"Doubtful labels of {title_of(data)}", doubt_sections(found, table.rows))
    return table


def doubt_sections(parts: Sequence[Measured], rows: Sequence[tuple]) -> list[Section]:
    """A gallery for each pair (label, answer), the most frequent first."""
    places = {key: (found.source, row) for found in parts for row, key in enumerate(found.source.keys)}
    pairs: dict[tuple[str, str], list[Picture]] = {}
    for key, label, answer, sure, _ in rows:
        source, row = places[key]
        picture = Picture(source.picture(row), f"{answer} {sure:.0%}", key, good=False)
        pairs.setdefault((label, answer), []).append(picture)
    ordered = sorted(pairs.items(), key=lambda pair: -len(pair[1]))
    return [Gallery(f"Labelled {label}, seen as {answer}", some[:PICTURES]) for (label, answer), some in ordered]


@dataclass(frozen=True)
class Packed:
    """Shards that were written."""

    folder: Path
    images: int
    shards: int
    size: int
    """Bytes of all shards."""
    notes: tuple[str, ...]
    """How the images are split, and what was left out."""


def pack_data(
    data: str | Path | Splits, out: str | Path, *, shard_mib: int = 256, holdout: float = 0.2, download: bool = False,
    follow_links: bool = False, quiet: bool = False,
) -> Packed:  # fmt: skip
    """Writes a set as tar files of `shard_mib` MiB with an index; images stay as they are encoded, the split is kept.

        vitrail.pack_data("./photos", "./photos-shards")

    The folder is data like any other. Raises ConfigError, DataError, StorageError.

    Args:
        out: The new folder.
        shard_mib: Size of each tar file.
    """
    if shard_mib < 1:
        raise ConfigError(f"shard_mib = {shard_mib}", allowed="1 or more")
    opening: dict[str, Any] = {"holdout": holdout, "download": download, "follow_links": follow_links}
    splits = open_data(data, **opening)
    with progress(count_images(splits), "Packing", quiet=quiet) as bar:
        shards.pack(splits, Path(out), shard_bytes=shard_mib << 20, tick=bar.update)
    files = list(Path(out).glob("*.tar"))
    size = sum(path.stat().st_size for path in files)
    return Packed(Path(out), count_images(splits), len(files), size, (splits.how, *splits.train.notes))


def count_images(splits: Splits) -> int:
    return sum(map(len, splits.parts.values()))


def title_of(data: str | Path | Splits) -> str:
    return data.train.name if isinstance(data, Splits) else str(data)
