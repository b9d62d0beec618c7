"""`vitrail predict`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vitrail.cli.arguments import Switch, parse, write
from vitrail.predict import predict
from vitrail.reports.tables import Column, Output, Table
from vitrail.weights.bundle import load


@dataclass(frozen=True)
class Predict:
    """Labels images with a trained model.

    Folders are searched for images at any depth. A file that cannot be read stops the work, unless --skip-unreadable is
    typed.

    examples:
      vitrail predict runs/photos-1 new.jpg
      vitrail predict runs/photos-1 holiday/ --top-k 1 --format csv > labels.csv
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    files: tyro.conf.Positional[tuple[Path, ...]]
    """Image files and folders."""
    top_k: int = 5
    format: Output = "table"
    batch: int = 32
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    skip_unreadable: Switch = False


def main(words: Sequence[str]) -> int:
    asked = parse(Predict, words, command="predict")
    found = predict(
        load(asked.model),
        asked.files,
        top_k=asked.top_k,
        batch_size=asked.batch,
        device=asked.device,
        precision=asked.precision,
        on_error="skip" if asked.skip_unreadable else "stop",
    )
    return 0
