"""`vitrail tune`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro

from vitrail.cli.arguments import call, parse, say
from vitrail.cli.options import Show
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.exporting.tune import Trial


@dataclass(frozen=True, kw_only=True)
class Tune(Show):
    """Measures the ways to run a model on this machine, and says which one to choose: number format, runtime, merged tokens.

    Each way answers the same images, which the model was not trained on. A way is chosen where the whole 95 % interval of its
    loss is within the bound. With few images that is shown of few ways: then name more images.

    examples:
      vitrail tune runs/photos-1 ./photos
      vitrail tune runs/photos-1 ./photos --within 1 --merges 4 8 12
    """

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")]
    """A run folder, a bundle or a weights file."""
    data: tyro.conf.Positional[str | None] = None
    """Labelled images; by default those of the run."""
    within: float = 0.5
    """Points of accuracy that may be lost."""
    merges: tuple[int, ...] | None = None
    """Patches merged in each block; by default three numbers that suit the model."""
    images: int = 2000
    """Images that measure accuracy, at most."""
    size: tuple[int, int] | None = None
    """Height and width, instead of the model's own."""
    threads: int = 0
    """CPU threads; 0 leaves the choice to torch and OMP_NUM_THREADS."""


def main(words: Sequence[str]) -> int:
    asked = parse(Tune, words, command="tune")
    from vitrail.api.tune import tune
    from vitrail.exporting.tune import choose

    found = call(tune, asked, say=say)
    best, why = choose(found)
    show(table(found, best), asked.format)
    say(why)
    if best is not None:
        command = best.command.replace("RUN", asked.model).replace("DATA", asked.data or "").replace("  ", " ")
        say(f"choose: {command}")
    return 0


def table(trials: "Sequence[Trial]", best: "Trial | None") -> Table:
    """A line for each way, the slowest first."""
    columns = (
        Column("engine"),
        Column("precision"),
        Column("merged"),
        Column("images_s", "{:.1f}"),
        Column("times", "{:.2f}"),
        Column("top1_%", "{:.2f}"),
        Column("falls_by", "{:+.2f}"),
        Column("low", "{:+.2f}"),
        Column("high", "{:+.2f}"),
        Column("loss"),
        Column("choose"),
    )
    rows = tuple(
        (
            trial.engine,
            trial.precision,
            trial.merge,
            trial.speed,
            trial.times,
            100 * trial.accuracy.after,
            trial.accuracy.drop,
            *trial.accuracy.interval,
            trial.verdict,
            "◀" if trial is best else "",
        )
        for trial in trials
    )
    one = trials[0].accuracy
    return Table(columns, rows, f"{one.images:,} images of {one.data}, {one.within:g} points allowed")
