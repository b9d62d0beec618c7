"""`vitrail study`."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitrail.cli.arguments import Switch, parse, say
from vitrail.errors import ConfigError
from vitrail.reports.tables import show
from vitrail.study import report
from vitrail.study.pretraining import Arena, run_arena

STUDIES = ("pretraining",)


@dataclass(frozen=True, kw_only=True)
class Study(Arena):
    """Compares ways of pre-training on your images: one small ViT, the same FLOPs, the same readouts, one report.

    examples:
      vitrail study pretraining digits
      vitrail study pretraining fashion-mnist --epochs 2 --labels 0.01 --methods none supervised mae
      vitrail study pretraining digits --seeds 1 --epochs 2 --ratios
    """

    data: tyro.conf.Positional[str] = ""
    """A folder with a folder per class, or a named set."""
    out: Path = Path("study")
    """A folder for report.html and cells.json."""
    json: Switch = False
    """The table as JSON."""


def main(words: Sequence[str]) -> int:
    if words and words[0] not in STUDIES and not words[0].startswith("-"):
        raise ConfigError(f"there is no study {words[0]!r}", allowed=", ".join(STUDIES))
    asked = parse(Study, words[1:] if words and words[0] in STUDIES else words, command="study pretraining")
    if not asked.data:
        raise ConfigError("no images were named", next_step="try `vitrail study pretraining digits`")
    asked.out.mkdir(parents=True, exist_ok=True)
    cells = []
    for cell in run_arena(asked, asked.out / "runs", say):
        cells.append(cell)
        (asked.out / "cells.json").write_text(json.dumps([dataclasses.asdict(one) for one in cells], indent=1), "utf-8")
    page = report.write_report(asked, cells, asked.out / "report.html")
    show(report.table(cells), "json" if asked.json else "table")
    say(f"report: {page}")
    return 0
