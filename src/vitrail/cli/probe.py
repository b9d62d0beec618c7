"""Measures frozen features as the papers do: few-shot, nearest neighbours, linear probe, logistic regression.

One pass over the images gives the features, every protocol reads them. A protocol fits on the training part of
DATA and tests on its held-out part. MODEL is a run folder, a bundle, a weights file, a file made by
`vitrail embed` (then DATA is left out), or the word `pixels`.

examples:
  vitrail probe runs/photos-1 ./photos
  vitrail probe vit-s16.npz fashion-mnist --layer 10 11 --protocols fewshot,knn,linear --beside pixels runs/mine
  vitrail probe features.safetensors --protocols linear,logistic --json
  vitrail probe vit-s16.npz ./photos --save runs/quick    a classifier in seconds, for `vitrail predict`
  vitrail probe runs/photos-1 ./many-subjects --at-least 12 --holdout 0.5 --protocols fewshot
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Names, Page, Show, Threads, options_of
from vitrail.reports.tables import show


@dataclass(frozen=True, kw_only=True)
class Save:
    """A classifier in place of a measurement."""

    save: Path | None = None
    """A new run folder: logistic regression as the model's head, which `vitrail predict` and `evaluate` take. No
    protocols are measured then; the same as `vitrail train DATA --weights MODEL --recipe logistic_head`."""


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("probe", __doc__, Show, Threads, Page, Save, protocols=Names), words, command="probe")
    if asked.save:
        return save_head(asked, asked.save)

    from vitrail.api.probe import probe
    from vitrail.evaluation.probing import sections, table
    from vitrail.reports.page import write_page

    check_writable(asked.html)

    rows = call(probe, asked, say=say)
    title = f"features on {asked.data or asked.model}"
    show(table(rows, title), asked.format)
    if asked.html:
        say(f"page: {write_page(asked.html, title.capitalize(), sections(rows))}")
    return 0


def save_head(asked: Any, out: Path) -> int:
    """A training run of no steps, whose head is logistic regression on the frozen features."""
    from vitrail.api.train import train
    from vitrail.cli.train import report

    changes: dict[str, Any] = {"hardware.device": asked.device, "follow_links": asked.follow_links}
    changes |= {"preprocess.size": (asked.size * 2)[:2]} if asked.size else {}
    found = train(
        asked.data, weights=asked.model, recipe="logistic_head", out=out, holdout=asked.holdout, download=asked.download, **changes
    )  # fmt: skip
    return report(found, asked)
