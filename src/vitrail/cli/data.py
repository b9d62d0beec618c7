"""Your images: what is wrong with them, the same as a few tar files, and what a training will see of them.

DATA is what `vitrail train` takes: a folder with a folder per class, a CSV, IDX files, shards, Parquet, a named set.

examples:
  vitrail data check ./photos --html photos.html
  vitrail data clean runs/photos-1 ./photos
  vitrail data pack ./photos ./photos-shards
  vitrail data show ./photos --recipe deit
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from vitrail.cli.arguments import Switch, call, check_writable, pairs, parse, run_group, say
from vitrail.cli.options import HeldOut, Show
from vitrail.errors import ConfigError, DataError
from vitrail.reports.tables import show

if TYPE_CHECKING:
    from vitrail.images.audit import Audit, Member
    from vitrail.images.samples import Splits

DECODED = "near duplicates", "misnamed files", "sizes"
"""Counts that need whole images; without it a 0 would be a guess."""


@dataclass(frozen=True, kw_only=True)
class Check(HeldOut, Show):
    """Looks at every image of a set and says what is wrong with it.

    The exit code is 65 where something is found that stops a training: images to learn from and to test on (exact
    copies; of a published benchmark they are only said), an unreadable held-out image, or more than one in a thousand
    unreadable training images. Near copies, conflicting labels, imbalance and misnamed files are listed, and the code stays 0.

    --json names every file that was skipped, and why.

    examples:
      vitrail data check ./photos
      vitrail data check ./photos --html photos.html
      vitrail data check ./photos --move-bad ./unreadable
      vitrail data check fashion-mnist --quick --json
    """

    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`."""
    html: Path | None = None
    """Also write one self-contained page with the pictures here."""
    quick: Switch = False
    """Only what `train` looks at first: exact copies and headers; no image is decoded."""
    unlabelled: Switch = False
    """Take every picture under DATA, whatever folder it is in."""
    move_bad: Path | None = None
    """Move the files that cannot be read into this new folder, at the same place in it. Nothing is deleted."""


@dataclass(frozen=True, kw_only=True)
class Pack(HeldOut):
    """Writes a set as shards: tar files with an index, read in any order. Images stay as they are encoded, the split is kept.

    The folder is data like any other: `vitrail train OUT`.

    examples:
      vitrail data pack ./photos ./photos-shards
      vitrail data pack images.csv ./shards --shard-mib 64
    """

    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`."""
    out: tyro.conf.Positional[Path]
    """The new folder."""
    shard_mib: int = 256
    """Size of each tar file."""


def main(words: Sequence[str]) -> int:
    return run_group("data", __doc__, {"check": check, "clean": clean, "pack": pack, "show": show_seen}, words)


def clean(words: Sequence[str]) -> int:
    """RUN DATA · the labels that a model doubts most, as a list and a page; nothing is moved"""
    from vitrail.cli.data_clean import run_clean

    return run_clean(words)


def show_seen(words: Sequence[str]) -> int:
    """DATA · a sheet of images over epochs; every option of `vitrail train` may be added"""
    from vitrail.cli.data_show import run_show

    return run_show(words)


def check(words: Sequence[str]) -> int:
    """DATA · unreadable files, copies, leaks between train and test, conflicting labels; --html with pictures"""
    asked = parse(Check, words, command="data check")
    from vitrail.batches.loader import most_unreadable
    from vitrail.cli.data_page import audit_sections, sizes
    from vitrail.images.audit import check as audit_of
    from vitrail.images.audit import summary
    from vitrail.images.sources import open_data, open_unlabelled
    from vitrail.reports.page import write_page
    from vitrail.reports.progress import progress

    check_writable(asked.html)
    splits = (
        open_unlabelled(asked.data, follow_links=asked.follow_links)
        if asked.unlabelled
        else call(open_data, asked, spec=asked.data)
    )
    with progress(_images(splits), "Checking") as bar:
        audit = audit_of(splits, quick=asked.quick, tick=bar.update)
    stops = audit.stops(most_unreadable)
    if asked.format == "json":
        print(json.dumps(facts(splits, audit, stops), ensure_ascii=False, indent=1))
    else:
        unknown = DECODED if asked.quick else ()
        rows = [(what, f"{number:,}") for what, number in summary(audit).items() if what not in unknown]
        show(pairs([*rows, *sizes(audit)], asked.data), asked.format)
        for sentence in (splits.how, *audit.sentences()):
            say(sentence)
        if asked.quick:
            say(f"not looked at: {', '.join(DECODED)}; leave out --quick")
        for stop in stops:
            say(f"a training stops at this: {stop.found}")
    if asked.move_bad:
        from vitrail.images.unreadable import move_unreadable

        moved = move_unreadable(Path(asked.data), [member.key for member, _ in audit.unreadable], asked.move_bad)
        say(f"{len(moved):,} unreadable files moved to {asked.move_bad}; check the images again")
    if asked.html:
        say(f"page: {write_page(asked.html, f'The images of {asked.data}', audit_sections(splits, audit))}")
    return DataError.exit_code if stops else 0


def facts(splits: "Splits", audit: "Audit", stops: Sequence[DataError]) -> dict[str, Any]:
    """All of an audit, for programs."""
    import numpy as np

    from vitrail.images.audit import summary

    def named(member: "Member", **more: str) -> dict[str, str]:
        return {"part": member.part, "key": member.key, **more}

    counts = {part: dict(zip(audit.classes, each.tolist(), strict=True)) for part, each in audit.counts.items()}
    groups = [
        {name: getattr(group, name) for name in ("exact", "leak", "conflict")}
        | {"images": [named(member, label=member.label) for member in group.members]}
        for group in audit.groups
    ]
    return {
        "split": splits.how, **{name.replace(" ", "_"): number for name, number in summary(audit).items()},
        "parts": audit.sizes, "per_class": counts, "groups": groups, "mean": audit.mean, "std": audit.std,
        "unreadable_images": [named(member, reason=reason) for member, reason in audit.unreadable],
        "skipped_files": [{"key": key, "reason": reason} for key, reason in splits.skipped],
        "misnamed": [named(member) | {"is": kind} for member, kind in audit.misnamed],
        "channels": {str(c): int((audit.shapes[:, 2] == c).sum()) for c in np.unique(audit.shapes[:, 2])},
        "sentences": list(audit.sentences()), "stops": [stop.found for stop in stops],
    }  # fmt: skip


def pack(words: Sequence[str]) -> int:
    """DATA OUT · shards, for disks that are slow with many files"""
    asked = parse(Pack, words, command="data pack")
    from vitrail.images import shards
    from vitrail.images.sources import open_data
    from vitrail.reports.progress import progress

    if asked.shard_mib < 1:
        raise ConfigError(f"--shard-mib {asked.shard_mib}", allowed="1 or more")
    splits = call(open_data, asked, spec=asked.data)
    with progress(_images(splits), "Packing") as bar:
        shards.pack(splits, asked.out, shard_bytes=asked.shard_mib << 20, tick=bar.update)
    files = list(asked.out.glob("*.tar"))
    size = sum(path.stat().st_size for path in files)
    rows = [
        ("images", f"{_images(splits):,}"),
        ("shards", f"{len(files):,}, {size / 2**20:,.1f} MiB"),
        ("split", splits.how),
        ("folder", asked.out.as_posix()),
        ("next", f"vitrail train {asked.out}"),
    ]
    show(pairs(rows), "table")
    for note in splits.train.notes:
        say(note)
    return 0


def _images(splits: "Splits") -> int:
    return sum(map(len, splits.parts.values()))
