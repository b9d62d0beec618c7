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
from typing import Annotated

import tyro

from vitrail.cli import name_options
from vitrail.cli.arguments import Switch, call, check_writable, pairs, parse, run_group, say
from vitrail.cli.options import Compute, HeldOut, Opening, Show
from vitrail.errors import DataError
from vitrail.reports.tables import show


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


@dataclass(frozen=True, kw_only=True)
class Clean(Compute, Opening):
    """Lists the labels that a model doubts most: where it is surest of another class. Nothing is moved or changed.

    A model believes the labels it was trained on, so doubts about those are few. Train on one half of the images and look
    at the other. A doubtful label may be right: look at the picture.

    examples:
      vitrail data clean runs/photos-1 ./photos
      vitrail data clean runs/photos-1 ./photos --most 200 --out doubtful.csv --html doubtful.html
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`; all parts are looked at."""
    most: int = 50
    """How many labels are listed."""
    out: Path | None = None
    """A CSV or JSON file for the list; without it the list is printed."""
    html: Path | None = None
    """Also write a page with the pictures here, one section for each pair of classes."""


def main(words: Sequence[str]) -> int:
    return run_group("data", __doc__, {"check": check, "clean": clean, "pack": pack, "show": show_seen}, words)


def clean(words: Sequence[str]) -> int:
    """RUN DATA · the labels that a model doubts most, as a list and a page; nothing is moved"""
    asked = parse(Clean, words, command="data clean")
    from vitrail.api.data import clean_data

    for path in (asked.out, asked.html):
        check_writable(path)
    table = call(clean_data, asked, say=say)
    if asked.out is None:
        show(table, "table")
    else:
        say(f"{len(table.rows):,} doubtful labels: {asked.out}")
    if asked.html:
        say(f"page: {asked.html}")
    return 0


def show_seen(words: Sequence[str]) -> int:
    """DATA · a sheet of images over epochs; every option of `vitrail train` may be added"""
    from vitrail.cli.data_show import run_show

    return run_show(words)


def check(words: Sequence[str]) -> int:
    """DATA · unreadable files, copies, leaks between train and test, conflicting labels; --html with pictures"""
    asked = parse(Check, words, command="data check")
    from vitrail.api.data import check_data

    check_writable(asked.html)
    found = call(check_data, asked)
    if asked.format == "json":
        print(json.dumps(found.facts(), ensure_ascii=False, indent=1))
    else:
        show(pairs(found.rows(), asked.data), asked.format)
        for sentence in found.sentences():
            say(name_options(sentence))
    if asked.move_bad:
        say(f"{len(found.moved):,} unreadable files moved to {asked.move_bad}; check the images again")
    if asked.html:
        say(f"page: {asked.html}")
    return DataError.exit_code if found.stops else 0


def pack(words: Sequence[str]) -> int:
    """DATA OUT · shards, for disks that are slow with many files"""
    asked = parse(Pack, words, command="data pack")
    from vitrail.api.data import pack_data

    found = call(pack_data, asked)
    split, *notes = found.notes
    rows = [
        ("images", f"{found.images:,}"),
        ("shards", f"{found.shards:,}, {found.size / 2**20:,.1f} MiB"),
        ("split", split),
        ("folder", asked.out.as_posix()),
        ("next", f"vitrail train {asked.out}"),
    ]
    show(pairs(rows), "table")
    for note in notes:
        say(note)
    return 0
