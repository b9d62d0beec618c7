"""Measures models on a list of data sets, all the same way: your own transfer suite, or VTAB-1k.

The file lists models, data sets and protocols. Every result is written down as soon as it is known: run it again to
go on, or after adding a model or a task. Missing tasks are listed
with how to get them. Means are over the tasks that ran. The exit code is then 65.
Paths are looked for beside the file first, then from the current directory.

my_suite.toml:
  protocols = ["fewshot", "knn", "linear"]   # also nearest-mean, linear-4, logistic, and finetune
  seeds = 3
  [[models]]
  path = "runs/photos-1"
  [[models]]
  path = "pixels"                            # what any model should beat
  [[tasks]]
  data = "./leaves"
  group = "natural"
  [vtab]                                     # the 19 tasks, each a folder below
  root = "data/vtab-1k"
  [finetune]                                 # as the paper does for VTAB, where nothing is said
  recipe = "finetune_small"                  # a CPU's: a logistic head first, 10 epochs
  lr = [0.003, 0.01]                         # one is chosen on held-out training images

examples:
  vitrail suite my_suite.toml
  vitrail suite my_suite.toml --out results/suite --json
"""

from collections.abc import Sequence

from vitrail.cli.arguments import call, parse, say
from vitrail.cli.options import Show, Threads, options_of
from vitrail.errors import DataError
from vitrail.reports.tables import show


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("suite", __doc__, Show, Threads), words, command="suite")
    from vitrail.study.suite import suite

    found = call(suite, asked, say=say)
    show(found.table, asked.format)
    if asked.format == "table":
        show(found.costs, "table")
        if found.missing:
            show(found.left_out, "table")
    say(f"page: {found.page}")
    return DataError.exit_code if found.missing else 0
