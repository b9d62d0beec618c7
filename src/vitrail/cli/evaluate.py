"""Measures a model on labelled images: top-1 with its 95 % interval, top-5, each class, calibration.

Every image counts once, and one that cannot be read is an error. A folder with its own
split is measured on its test part, other data on all images. Images that the model was trained on are left out:
they are known by their contents, whatever they are called now.

examples:
  vitrail evaluate runs/photos-1 ./photos
  vitrail evaluate runs/photos-1 ./other-photos --json
  vitrail evaluate runs/photos-1 ./photos --size 384 384      what another resolution does
  vitrail evaluate runs/photos-1 ./photos --views ten          mean over ten crops of each image
  vitrail evaluate runs/photos-1 ./photos --answers answers.csv
  vitrail evaluate vit-b16.npz imagenet/ --split test --html report.html
"""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitrail.cli.arguments import call, check_writable, pairs, parse, say
from vitrail.cli.options import Show, Threads, options_of
from vitrail.reports.tables import show

if TYPE_CHECKING:
    from vitrail.api.evaluate import Measured


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("evaluate", __doc__, Show, Threads), words, command="evaluate")

    from vitrail.api.evaluate import measure

    for path in (asked.html, asked.answers):
        check_writable(path)
    found = call(measure, asked, say=say)
    report(found, asked)
    sys.stdout.flush()  # the numbers first: a disk may refuse the rest
    if asked.answers:
        say(f"answers: {found.write_answers(asked.answers)}")
    if asked.html:
        say(f"report: {found.write_page(asked.html)}")
    return 0


def report(found: "Measured", asked: Any) -> None:
    scores, classes = found.scores, found.scores.table()
    if asked.format == "json":
        print(json.dumps(facts(found, asked), ensure_ascii=False, indent=1))
    elif asked.format == "csv" and classes:
        show(classes, "csv")
    else:
        show(pairs([*scores.facts(), *([("warning", found.caveat)] if found.caveat else [])]), "table")
        if classes:
            show(classes, "table")


def facts(found: "Measured", asked: Any) -> dict[str, Any]:
    what = {"model": asked.model, "data": asked.data, "views": asked.views, "trained_on": found.trained_on}
    return {**what, **found.scores.numbers, **found.scores.details()}
