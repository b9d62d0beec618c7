"""`vitrail plan`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from vitrail.cli.arguments import pairs, say
from vitrail.cli.options import Show
from vitrail.cli.run_options import Asked, understand
from vitrail.reports.tables import show
from vitrail.training.plan import plan


@dataclass(frozen=True)
class Plan(Asked, Show):
    """Says what a training would cost, and trains nothing: steps, batch, FLOPs, and by a short probe time and memory.

    It takes the words of `vitrail train`.

    examples:
      vitrail plan ./photos
      vitrail plan ./photos --model vit-b/16 --batch 256
      vitrail plan digits --json
    """


def main(words: Sequence[str]) -> int:
    asked, chosen = understand(Plan, words, command="plan")
    say(chosen.why)
    height, width = chosen.run.preprocess.size
    say(f"measuring some steps, or parts of a step, at {height}×{width}")
    found = plan(chosen.run, chosen.splits)
    if asked.format == "json":
        print(json.dumps(found.to_dict(), indent=1))
    else:
        show(pairs(found.rows()), asked.format)
    return 0
