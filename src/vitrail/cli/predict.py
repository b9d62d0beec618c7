"""Labels images with a trained model.

Folders are searched for images at any depth; shards, Parquet, IDX files and named sets are read as they are. A file
that cannot be read stops the work, unless --skip-unreadable is typed.

With --out the answers to any number of images go to a Parquet file, or a folder of them, part by part. After a kill
the same command goes on where it was. torchrun shares the work. An image that cannot be read gets a row that says why.

examples:
  vitrail predict runs/photos-1 new.jpg
  vitrail predict runs/photos-1 holiday/ --top 1 --csv > labels.csv
  vitrail predict runs/photos-1 inbox/ --least auto          "none of these" for what the model does not know
  torchrun --nproc-per-node=2 -m vitrail predict runs/photos-1 archive/ --out labels/
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitrail.cli.arguments import call, parse, say
from vitrail.cli.options import Show, Threads, options_of
from vitrail.errors import ConfigError
from vitrail.reports.tables import Column, Output, Table, show

if TYPE_CHECKING:
    from vitrail.prediction.predict import Prediction


@dataclass(frozen=True, kw_only=True)
class Out:
    """Where many answers go."""

    out: Path | None = None
    """A name that ends with .parquet, or a folder: the answers go there and not to the screen."""
    part: int = 1024
    """With --out, images of a part: what a kill can cost each process."""


NONE = "none of these", None
"""The answer to an image without a label, and its probability."""


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("predict", __doc__, Show, Threads, Out), words, command="predict")

    from vitrail.api.predict import predict, predict_in_parts

    if not asked.images:
        raise ConfigError("no images were named", next_step=f"try `vitrail predict {asked.model} photo.jpg`")
    if asked.out is not None:
        if asked.out.suffix not in (".parquet", ""):
            raise ConfigError(
                f"--out {asked.out}",
                allowed="a name that ends with .parquet, or a folder",
                next_step="for CSV or JSON use --csv or --json and send the output to a file",
            )
        say(call(predict_in_parts, asked, say=say))
        return 0
    found = call(predict, asked, say=say)
    show_answers(found, asked.format)
    skipped = [one for one in found if one.error]
    if skipped:
        say(f"{len(skipped)} of {len(found)} files could not be read and have no answer:")
        for one in skipped:
            say(f"  {one.error}")
    return 0


def show_answers(found: "Sequence[Prediction]", output: Output) -> None:
    """A line per image, or in CSV a line per answer; of a model of numbers a line per number."""
    if output == "json":
        print(json.dumps([as_json(one) for one in found], ensure_ascii=False, indent=1))
    elif any(one.value is not None for one in found):
        values = tuple((one.key, one.value) for one in found if not one.error)
        show(Table((Column("file"), Column("value", "{:.4g}")), values), output)
    else:
        show(as_csv(found) if output == "csv" else as_table(found), output)


def as_table(found: "Sequence[Prediction]") -> Table:
    """A line per image: the answer, how sure, and what else it might be."""
    columns = Column("file"), Column("answer"), Column("probability", "{:.1%}"), Column("then")
    rows = []
    for one in found:
        answers = [f"{label} {sure:.1%}" for label, sure in zip(one.labels, one.probabilities, strict=True)]
        if not one.error:
            best = (one.labels[0], one.probabilities[0]) if answers else NONE
            rows.append((one.key, *best, ", ".join(answers[1:])))
    return Table(columns, tuple(rows))


def as_csv(found: "Sequence[Prediction]") -> Table:
    """A line per answer, the likeliest first; a line for an image that is none of these."""
    rows = tuple(
        (one.key, rank, *answer)
        for one in found
        for rank, answer in enumerate(list(zip(one.labels, one.probabilities, strict=True)) or [NONE], start=1)
        if not one.error
    )
    return Table(tuple(map(Column, ("file", "rank", "label", "probability"))), rows)


def as_json(one: "Prediction") -> dict[str, Any]:
    """An object; one that could not be read has an error in place of answers."""
    if one.error:
        return {"file": one.key, "error": one.error}
    if one.value is not None:
        return {"file": one.key, "value": one.value}
    return {"file": one.key, "labels": one.labels, "probabilities": one.probabilities}
