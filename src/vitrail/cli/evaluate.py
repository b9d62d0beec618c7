"""`vitrail evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro

from vitrail import config
from vitrail.cli.arguments import Switch, pairs, parse, say
from vitrail.errors import ConfigError
from vitrail.evaluation.classification import Scores
from vitrail.evaluation.evaluate import evaluate
from vitrail.evaluation.report import classification_sections, headline, per_class_table
from vitrail.images.sources import Source, Splits, open_data
from vitrail.prediction.views import Views, averaged
from vitrail.reports.page import write_page
from vitrail.reports.tables import show
from vitrail.training.run import Run
from vitrail.weights.bundle import load


@dataclass(frozen=True)
class Evaluate:
    """Measures a model on labelled images: top-1 with its 95 % interval, top-5, each class, calibration.

    Every image counts once, and one that cannot be read is an error. Of a folder that has a split of its own the test
    part is measured; of the data a run was trained on, the part it has not seen; of other data, all of it.

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
    """Which part; `all` puts together what has no split of its own."""
    image: tuple[int, int] | None = None
    """Height and width to measure at, instead of the model's own; its positions are resized."""
    views: Views = "one"
    """Average the answers over views of each image: flip, five crops, or ten (five and their mirror images)."""
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
    source, which = part(asked)
    say(which)
    model = averaged(load(asked.model, image=asked.image), asked.views)
    scores, _ = evaluate(
        model,
        source,
        batch_size=asked.batch,
        device=asked.device,
        precision=asked.precision,
        workers=asked.workers,
    )
    if asked.html:
        sections = classification_sections(scores, source.picture, scores.classes)
        say(f"report: {write_page(asked.html, f'{asked.model} on {asked.data}', sections)}")
    report(scores, asked)
    return 0


def report(scores: Scores, asked: Evaluate) -> None:
    classes = per_class_table(scores)
    if asked.json:
        print(json.dumps(facts(scores, asked), ensure_ascii=False, indent=1))
    elif asked.csv:
        show(classes, "csv")
    else:
        show(pairs(headline(scores)), "table")
        show(classes, "table")


def facts(scores: Scores, asked: Evaluate) -> dict[str, Any]:
    per_class = [asdict(row) for row in scores.per_class]
    found = {"model": asked.model, "data": asked.data, "views": asked.views, **dict(scores)}
    return {**found, "per_class": per_class, "confusion": scores.confusion.tolist()}


def part(asked: Evaluate) -> tuple[Source, str]:
    """The images to measure, and a sentence that says which they are."""
    run = run_of(Path(asked.model))
    seen = run is not None and same(run.data, asked.data)
    splits = open_data(asked.data, holdout=run.holdout if run and seen else Run().holdout)
    drawn = splits.drawn
    name = asked.split if asked.split != "auto" else ("test" if seen or not drawn else "all")
    if name == "all" and not drawn:
        raise ConfigError("this data has a split of its own", allowed="--split train, val or test")
    source = {"train": splits.train, "val": splits.val, "test": splits.test, "all": whole(splits) if drawn else None}[
        name
    ]
    if source is None:
        raise ConfigError("this data has no validation part", allowed="--split train or test")
    held_out = " the run did not learn from" if seen and drawn and name == "test" else ""
    return source, f"{len(source):,} images{held_out} ({name} of {asked.data})"


def whole(splits: Splits) -> Source:
    """A drawn split put together again, in the order of the storage."""
    train, test = splits.train, splits.test
    order = np.argsort(np.concatenate([train.rows, test.rows]), kind="stable")
    keys = [*train.keys, *test.keys]
    return replace(
        train,
        labels=np.concatenate([train.labels, test.labels])[order],
        keys=[keys[index] for index in order],
        rows=np.concatenate([train.rows, test.rows])[order],
    )


def run_of(model: Path) -> Run | None:
    """The run whose folder, or whose best/ or last/, this is."""
    for folder in (model, model.parent):
        if (folder / "run.json").is_file():
            return config.read_json(Run, folder / "run.json")
    return None


def same(one: str, other: str) -> bool:
    return one == other or (Path(one).exists() and Path(other).exists() and Path(one).samefile(other))
