"""`vitrail probe`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from vitrail.cli.arguments import call, check_writable, parse, say, split_names
from vitrail.cli.options import Compute, HeldOut, Pool, Show
from vitrail.reports.tables import show


@dataclass(frozen=True, kw_only=True)
class Probe(Compute, HeldOut, Show):
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

    model: tyro.conf.Positional[str]
    data: tyro.conf.Positional[str] = ""
    """Labelled images, as for `vitrail train`."""
    protocols: str = "fewshot,knn,nearest-mean,linear"
    """Of fewshot, knn, nearest-mean, linear, linear-4 (the last four blocks side by side) and logistic."""
    layer: tuple[int, ...] = ()
    """The block whose output is read, from 1, or from the last with -1; several are rows of one table, after one pass.
    Without it, what the model's head reads."""
    pool: Pool = "auto"
    """With --layer: the class token, the mean of the patches, or both."""
    size: tuple[int, ...] = ()
    """Sides of square images in pixels, each measured: what resolution brings. Without it, the model's own."""
    shots: tuple[int, ...] | None = None
    """Images of each class; 1 5 10 25, as far as the data allows."""
    l2: tuple[float, ...] = (1024.0,)
    """Strengths of the few-shot ridge. Each is a row: choosing among them by the test set would be cheating."""
    k: tuple[int, ...] | None = None
    """Neighbours; 10 20 100 200, as far as the data allows."""
    seeds: int = 3
    """Few-shot draws and probe trainings, averaged."""
    beside: tuple[str, ...] = ()
    """More models to measure in the same table."""
    save: Path | None = None
    """A new run folder: logistic regression as the model's head, which `vitrail predict` and `evaluate` take. No
    protocols are measured then; the same as `vitrail train DATA --weights MODEL --recipe logistic_head`."""
    at_least: int = 0
    """Leave out classes of fewer images, train and test together."""
    cache: Path | None = None
    """A folder in which features are kept between commands; a pass that was stopped goes on."""
    html: Path | None = None
    """Also write a page here."""


def main(words: Sequence[str]) -> int:
    asked = parse(Probe, words, command="probe")
    if asked.save:
        return save_head(asked, asked.save)

    from vitrail.api.probe import probe
    from vitrail.evaluation.probing import sections, table
    from vitrail.reports.page import write_page

    check_writable(asked.html)

    rows = call(probe, asked, data=asked.data or None, protocols=split_names(asked.protocols), say=say)
    title = f"features on {asked.data or asked.model}"
    show(table(rows, title), asked.format)
    if asked.html:
        say(f"page: {write_page(asked.html, title.capitalize(), sections(rows))}")
    return 0


def save_head(asked: Probe, out: Path) -> int:
    """A training run of no steps, whose head is logistic regression on the frozen features."""
    from vitrail.api.train import train
    from vitrail.cli.train import report

    changes: dict[str, Any] = {"hardware.device": asked.device, "follow_links": asked.follow_links}
    changes |= {"preprocess.size": (asked.size * 2)[:2]} if asked.size else {}
    found = train(
        asked.data, weights=asked.model, recipe="logistic_head", out=out, holdout=asked.holdout, download=asked.download, **changes
    )  # fmt: skip
    return report(found.results, asked)
