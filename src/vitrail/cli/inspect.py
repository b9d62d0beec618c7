"""`vitrail inspect`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vitrail.cli.arguments import call, check_writable, parse, say


@dataclass(frozen=True)
class Inspect:
    """Looks inside a model: attention, rollout, attention distance, position embeddings, filters, patch features.

    Writes a folder with report.html (one file, no network), every figure as SVG and PNG, every number as CSV and JSON.
    Analyses that do not apply are named. Without images, the report is about the weights only.

    examples:
      vitrail inspect runs/photos-1 photo.jpg another.jpg
      vitrail inspect vit-b16.npz photos/ --against runs/photos-1 --out compared
      vitrail inspect runs/digits-1 digits --layers 1 -1
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file; or a model of the zoo by name, newly initialised."""
    images: tyro.conf.Positional[tuple[str, ...]] = ()
    """Image files and folders, or one named set; 128 images at most are taken, evenly."""
    against: str | None = None
    """A second model, side by side."""
    out: Path | None = None
    """Folder for the report; runs/inspection where none is named."""
    layers: tuple[int, ...] = ()
    """Only these layers' attention, counted from 1; -1 is the last."""
    heads: tuple[int, ...] = ()
    """Only these heads, counted from 1."""
    size: tuple[int, int] | None = None
    """Height and width in pixels the images are brought to, in place of the model's own."""
    device: str = "auto"


def main(words: Sequence[str]) -> int:
    asked = parse(Inspect, words, command="inspect")

    from vitrail.api.inspect import inspect
    from vitrail.weights.bundle import is_remote

    out = asked.out or Path("runs") / "inspection"
    check_writable(out)
    for name in (asked.model, *([asked.against] if asked.against else [])):
        if not Path(name).exists() and not is_remote(name):
            say(f"{name} is newly initialised: its figures show chance")
    found = call(inspect, asked, out=None)
    page = found.write(out)
    say(f"{len(found.subjects[0].images):,} images")
    for what, why in found.missing:
        say(f"not in the report: {what}: {why}")
    print(page)
    return 0
