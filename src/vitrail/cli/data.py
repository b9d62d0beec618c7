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

from vitrail.cli import name_options
from vitrail.cli.arguments import call, check_writable, pairs, parse, run_group, say
from vitrail.cli.options import Show, Threads, options_of
from vitrail.errors import DataError
from vitrail.reports.tables import show


def main(words: Sequence[str]) -> int:
    return run_group("data", __doc__, {"check": check, "clean": clean, "pack": pack, "show": show_seen}, words)


def clean(words: Sequence[str]) -> int:
    """RUN DATA · Lists the labels that a model doubts most: where it is surest of another class. Nothing is moved or changed.

    A model believes the labels it was trained on, so doubts about those are few. Train on one half of the images and look
    at the other. A doubtful label may be right: look at the picture.

    examples:
      vitrail data clean runs/photos-1 ./photos
      vitrail data clean runs/photos-1 ./photos --most 200 --out doubtful.csv --html doubtful.html
    """
    asked = parse(options_of("clean_data", clean.__doc__, Threads), words, command="data clean")
    from vitrail.api.data import clean_data

    for path in (asked.out, asked.html):
        check_writable(path)
    table = call(clean_data, asked, say=say)
    if not table.rows:
        say("no label is doubtful: each image was answered as it is labelled")
    elif asked.out is None:
        show(table, "table")
    else:
        say(f"{len(table.rows):,} doubtful labels: {asked.out}")
    if asked.html:
        say(f"page: {asked.html}")
    return 0


def show_seen(words: Sequence[str]) -> int:
    """DATA · Draws what a training will see: a sheet of images over epochs. Every option of `vitrail train` may be added."""
    from vitrail.cli.data_show import run_show

    return run_show(words)


def check(words: Sequence[str]) -> int:
    """DATA · Looks at every image of a set and says what is wrong with it.

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
    asked = parse(options_of("check_data", check.__doc__, Show), words, command="data check")
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
    """DATA OUT · Writes a set as shards: tar files with an index, read in any order.

    Images stay as they are encoded, the split is kept. The folder is data like any other: `vitrail train OUT`.

    examples:
      vitrail data pack ./photos ./photos-shards
      vitrail data pack images.csv ./shards --shard-mib 64
    """
    asked = parse(options_of("pack_data", pack.__doc__), words, command="data pack")
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
