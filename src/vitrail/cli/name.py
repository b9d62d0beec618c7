"""Makes a classifier of words: a text tower gives each name its place among the images. Nothing is trained.

OUT is an ordinary bundle: predict, evaluate, probe, train --weights and export take it. With labelled images, one part
fits a temperature and a least probability; accuracy is measured on the other part. Few-shot and linear probes on
the same tower stand beside it. Without labels there is no accuracy.

examples:
  vitrail name ./photos --weights siglip2-b/16 --names "cat, dog"
  vitrail name ./photos --weights clip-b/32-openai --names "cat, dog" --prompts "a photo of a {}" "a drawing of a {}"
  vitrail name ./photos --weights clip-l/14-laion2b     the folders of the photos are the names
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vitrail.cli.arguments import call, check_writable, parse, say
from vitrail.cli.options import Names, Show, options_of
from vitrail.reports.tables import Column, Table, show

if TYPE_CHECKING:
    from vitrail.api.name import Named


def main(words: Sequence[str]) -> int:
    asked = parse(
        options_of("name", __doc__, Show, positional=["images"], names=Names, config=None), words, command="name"
    )
    out = asked.out or Path("named")
    check_writable(out)

    from vitrail.api.name import name

    found = call(name, asked, out=out, say=say)
    say(f"{out}: {len(found.model.record.classes)} classes from words; licence: {found.model.record.licence}")
    if found.scores is not None or asked.format != "table":  # a program reads an empty list
        show(table(found), asked.format)
    if found.scores is None:
        say("scores are similarities, not probabilities")
        return 0
    for line in advise(found, out):
        say(line)
    return 0


def table(found: "Named") -> Table:
    """Accuracy with its interval: from words, and of probes that saw labelled images of the same part."""
    scores = found.scores
    first = [("from words", "", 0, scores.top1, *scores.interval)] if scores else []
    rest = [(row.protocol, row.setting, row.images, row.spread.mean, *row.interval) for row in found.rows]
    columns = Column("classifier"), Column("setting"), Column("labelled images", "{:,}"), Column("accuracy", "{:.1%}")
    columns += Column("from", "{:.1%}"), Column("to", "{:.1%}")
    title = f"{scores.images if scores else 0:,} test images; 95 % intervals"
    return Table(columns, (*first, *rest), title)


def advise(found: "Named", out: Path) -> list[str]:
    """How probabilities are to be read, and from which one on answers can be relied on."""
    lines = [f"temperature {found.model.record.temperature:.3g}, fitted on other images: predict --calibrated uses it"]
    if found.least is None or found.precision is None:
        return [*lines, "no probability keeps 95 % of the answers right: name fewer or other classes, or train a head"]
    command = f"vitrail predict {out} IMAGES --calibrated --least {found.least:g}"
    return [
        *lines,
        f"{command} answers {found.kept:.0%} of the test images and is right for {found.precision:.1%} of these; "
        "the others are none of the names, or unclear",
    ]
