"""`vitrail evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vitrail.api.evaluate import evaluate
from vitrail.cli.arguments import Switch, pairs, parse, say
from vitrail.errors import ConfigError
from vitrail.prediction.views import Views
from vitrail.reports.tables import show
from vitrail.scores.outcome import Outcome


@dataclass(frozen=True)
class Evaluate:
    """Measures a model on labelled images: top-1 with its 95 % interval, top-5, each class, calibration.

    Every image counts once, and one that cannot be read is an error. Of a folder that has a split of its own the test
    part is measured, of other data all images. Images that the model was trained on are left out: they are known by
    their contents, whatever they are called now.

    examples:
      vitrail evaluate runs/photos-1 ./photos
      vitrail evaluate runs/photos-1 ./other-photos --json
      vitrail evaluate runs/photos-1 ./photos --image 384 384      what another resolution does
      vitrail evaluate runs/photos-1 ./photos --views ten          mean over ten crops of each image
      vitrail evaluate vit-b16.npz imagenet/ --split test --html report.html
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`."""
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
    """Which part, all of it: what the model was trained on is counted, not left out."""
    image: tuple[int, int] | None = None
    """Height and width to measure at, instead of the model's own; its positions are resized."""
    views: Views = "one"
    """Average the answers over views of each image: flip, five crops, or ten (five and their mirror images)."""
    download: Switch = False
    """Fetch a named set where it is not on this machine."""
    batch: int = 64
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int = -1
    json: Switch = False
    """Everything as JSON, classes and confusion matrix too."""
    csv: Switch = False
    """One line per class as CSV."""
    html: Path | None = None
    """Also write a report with pictures here."""


def main(words: Sequence[str]) -> int:
    asked = parse(Evaluate, words, command="evaluate")
    if asked.json and asked.csv:
        raise ConfigError("--json and --csv together", allowed="one of them")
    scores = evaluate(
        asked.model, asked.data, split=asked.split, size=asked.image, views=asked.views, batch=asked.batch,
        device=asked.device, precision=asked.precision, workers=asked.workers, download=asked.download, html=asked.html,
        say=say,
    )  # fmt: skip
    report(scores, asked)
    if asked.html:
        say(f"report: {asked.html}")
    return 0


def report(scores: Outcome, asked: Evaluate) -> None:
    classes = scores.table()
    if asked.json:
        print(json.dumps(facts(scores, asked), ensure_ascii=False, indent=1))
    elif asked.csv and classes:
        show(classes, "csv")
    else:
        show(pairs(scores.facts()), "table")
        if classes:
            show(classes, "table")


def facts(scores: Outcome, asked: Evaluate) -> dict[str, Any]:
    return {"model": asked.model, "data": asked.data, "views": asked.views, **scores.numbers, **scores.details()}
