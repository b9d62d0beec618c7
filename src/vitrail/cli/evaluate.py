"""`vitrail evaluate`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from vitrail.cli.arguments import call, check_writable, pairs, parse, say
from vitrail.cli.options import Part, Runtime, Show, Views
from vitrail.reports.tables import show

if TYPE_CHECKING:
    from vitrail.scores.outcome import Outcome


@dataclass(frozen=True, kw_only=True)
class Evaluate(Runtime, Part, Show):
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

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle, a weights file or an exported model."""
    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`."""
    size: tuple[int, int] | None = None
    """Height and width to measure at, instead of the model's own; its positions are resized."""
    views: Views = "one"
    """Average the answers over views of each image: flip, five crops, or ten (five and their mirror images)."""
    answers: Path | None = None
    """Also write the answer to each image and its truth here, as CSV, or as JSON where the name ends with .json."""
    html: Path | None = None
    """Also write a report with pictures here."""


def main(words: Sequence[str]) -> int:
    asked = parse(Evaluate, words, command="evaluate")

    from vitrail.api.evaluate import measure

    for path in (asked.html, asked.answers):
        check_writable(path)
    found = call(measure, asked, say=say)
    report(found.scores, asked)
    sys.stdout.flush()  # the numbers first: a disk may refuse the rest
    if asked.answers:
        say(f"answers: {found.write_answers(asked.answers)}")
    if asked.html:
        say(f"report: {found.write_page(asked.html)}")
    return 0


def report(scores: "Outcome", asked: Evaluate) -> None:
    classes = scores.table()
    if asked.format == "json":
        print(json.dumps(facts(scores, asked), ensure_ascii=False, indent=1))
    elif asked.format == "csv" and classes:
        show(classes, "csv")
    else:
        show(pairs(scores.facts()), "table")
        if classes:
            show(classes, "table")


def facts(scores: "Outcome", asked: Evaluate) -> dict[str, Any]:
    return {"model": asked.model, "data": asked.data, "views": asked.views, **scores.numbers, **scores.details()}
