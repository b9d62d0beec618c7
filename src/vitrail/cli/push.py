"""`vitrail push`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from vitrail.cli.arguments import Switch, call, parse


@dataclass(frozen=True)
class Push:
    """Uploads a run's weights to the Hugging Face hub, with a model card made from their record.

    examples:
      vitrail push runs/photos-1 me/photos
      vitrail push runs/photos-1/best me/photos --private
    """

    folder: tyro.conf.Positional[Path]
    """A run or a bundle."""
    name: tyro.conf.Positional[str]
    """The repository, owner/name; it is made if it is missing. Load it with hf:owner/name."""
    private: Switch = False
    """Make a new repository private."""


def main(words: Sequence[str]) -> int:
    asked = parse(Push, words, command="push")
    from vitrail.weights.push import push

    print(call(push, asked))
    return 0
