"""`vitrail robustness`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from vitrail.api.evaluate import robustness
from vitrail.cli.arguments import Switch, parse, say
from vitrail.evaluation.corruptions import CORRUPTIONS, SEVERITIES
from vitrail.evaluation.robustness import mean_corrupted
from vitrail.reports.tables import Column, Table, show
from vitrail.training.unseen import Split


@dataclass(frozen=True)
class Robust:
    """Measures a model on corrupted images: noise, blur, contrast and compression at five severities, after ImageNet-C.

    The images are corrupted here, at the size the model reads, the same way each time.

    examples:
      vitrail robustness runs/photos-1 ./photos
      vitrail robustness runs/photos-1 ./photos --corruptions fog,jpeg --severities 1 3 5 --csv
    """

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str]
    """Labelled images; those that the model was trained on are left out."""
    corruptions: str = ""
    """Names with commas between; all twelve by default."""
    severities: tuple[int, ...] = SEVERITIES
    seed: int = 0
    split: Split = "auto"
    """Which part, all of it: what the model was trained on is counted, not left out."""
    download: Switch = False
    """Fetch a named set where it is not on this machine."""
    batch: int = 64
    device: str = "auto"
    precision: Annotated[str, tyro.conf.arg(help="auto, fp32 or bf16")] = "auto"
    workers: int = -1
    json: Switch = False
    csv: Switch = False


def main(words: Sequence[str]) -> int:
    asked = parse(Robust, words, command="robustness")
    chosen = [name.strip() for name in asked.corruptions.split(",") if name.strip()] or list(CORRUPTIONS)
    rows = robustness(
        asked.model, asked.data, corruptions=chosen, severities=asked.severities, seed=asked.seed, split=asked.split,
        batch=asked.batch, device=asked.device, precision=asked.precision, workers=asked.workers,
        download=asked.download, say=say,
    )  # fmt: skip
    columns = ("accuracy_%", "low", "high")
    cells = tuple(
        (row.corruption, row.severity, *(100 * value for value in (row.accuracy, *row.interval))) for row in rows
    )
    table = Table(
        (Column("corruption"), Column("severity"), *(Column(name, "{:.2f}") for name in columns)), cells, asked.model
    )
    show(table, "json" if asked.json else "csv" if asked.csv else "table")
    say(f"clean {rows[0].accuracy:.2%} · corrupted {mean_corrupted(rows):.2%}, the mean of {len(rows) - 1} settings")
    return 0
