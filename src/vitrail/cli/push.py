"""Uploads a run's weights to the Hugging Face hub, with a model card made from their record.

examples:
  vitrail push runs/photos-1 me/photos
  vitrail push runs/photos-1/best me/photos --private
"""

from collections.abc import Sequence

from vitrail.cli.arguments import call, parse
from vitrail.cli.options import options_of


def main(words: Sequence[str]) -> int:
    asked = parse(options_of("push", __doc__, token=None), words, command="push")
    from vitrail.weights.push import push

    print(call(push, asked))
    return 0
