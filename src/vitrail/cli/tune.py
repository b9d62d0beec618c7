"""Measures the ways to run a model on this machine, and says which one to choose: number format, runtime, merged tokens.

Each way answers the same images, which the model was not trained on. A way is chosen where the whole 95 % interval of its
loss is within the bound. With few images that is shown of few ways: then name more images.

examples:
  vitrail tune runs/photos-1 ./photos
  vitrail tune runs/photos-1 ./photos --within 1 --merges 4 8 12
"""

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vitrail.cli.arguments import call, parse, say
from vitrail.cli.options import Show, Threads, options_of
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.exporting.tune import Trial


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("tune", __doc__, Show, Threads), words, command="tune")
    from vitrail.api.tune import tune
    from vitrail.exporting.tune import choose

    found = call(tune, asked, say=say)
    best, why = choose(found)
    show(table(found, best), asked.format)
    say(why)
    if best is not None:
        say(f"choose: {' && '.join(fill(part, asked) for part in best.command.split(' && '))}")
    return 0


def fill(command: str, asked: Any) -> str:
    """A command with the model, the images, the size and the bound that were asked for, as a shell reads it."""
    given = {"RUN": [asked.model], "DATA": [asked.data] if asked.data else []}
    words = [one for word in shlex.split(command) for one in given.get(word, [word])]
    if words[1] != "weights" and asked.size:
        words += ["--size", *map(str, asked.size)]
    if words[1] == "export":
        words += ["--within", f"{asked.within:g}"]
    return shlex.join(words)


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
