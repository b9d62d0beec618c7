"""Looks inside a model: attention, rollout, attention distance, position embeddings, filters, patch features.

Writes a folder with report.html (one file, no network), every figure as SVG and PNG, every number as CSV and JSON.
Without --out the folder is runs/inspection-1, or the next number that is free.
Analyses that do not apply are named. Without images, the report is about the weights only.

examples:
  vitrail inspect runs/photos-1 photo.jpg another.jpg
  vitrail inspect vit-b16.npz photos/ --against runs/photos-1 --out compared
  vitrail inspect runs/digits-1 digits --layers 1 -1
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import options_of


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("inspect", __doc__), words, command="inspect")

    from vitrail.api.inspect import inspect
    from vitrail.images.findings import counted
    from vitrail.weights.bundle import is_remote

    out = asked.out or next_free()
    check_writable(out)
    for name in (asked.model, *([asked.against] if asked.against else [])):
        if not Path(name).exists() and not is_remote(name):
            say(f"{name} is newly initialised: its figures show chance")
    found = call(inspect, asked, out=out)
    say(counted(len(found.subjects[0].images), "image"))
    for what, why in found.missing:
        say(f"not in the report: {what}: {why}")
    print(out / "report.html")
    return 0


def next_free() -> Path:
    """runs/inspection-1, runs/inspection-2, …: the first that is free."""
    places = (Path("runs") / f"inspection-{number}" for number in itertools.count(1))
    return next(place for place in places if not place.exists())
