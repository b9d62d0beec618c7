"""`vitrail evaluate`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vitrail import config
from vitrail.cli.arguments import Switch, pairs, parse, say, write
from vitrail.evaluate import evaluate
from vitrail.evaluate.classification import Scores
from vitrail.images.sources import Source, open_data
from vitrail.reports.tables import Column, Table
from vitrail.train.run import Run
from vitrail.weights.bundle import load


@dataclass(frozen=True)
class Evaluate:
    """Measures a model on labelled images: top-1 with its 95 % interval, top-5, each class, calibration.

    Every image counts once, and one that cannot be read is an error. Of a folder that has a split of its own the test
    part is measured; of the data a run was trained on, the part it has not seen; of other data, all of it.

    examples:
      vitrail evaluate runs/photos-1 ./photos
      vitrail evaluate runs/photos-1 ./other-photos --json
      vitrail evaluate vit-b16.npz imagenet/ --split test --html report.html
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    data: tyro.conf.Positional[str]
    """Labelled images, as for `vitrail train`."""
    split: Literal["auto", "train", "val", "test", "all"] = "auto"
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
