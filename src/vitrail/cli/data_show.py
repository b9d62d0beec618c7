"""`vitrail data show`."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vitrail.api.show_data import draw_sheet
from vitrail.cli.arguments import say
from vitrail.cli.run_options import Asked, understand


@dataclass(frozen=True)
class Show(Asked):
    """Draws what a training will see: some images as evaluation has them, then as each epoch has them, then mixed.

    The pictures come out of the training's own loader, with its seed, order and augmentation; every option of `vitrail
    train` may be added.

    examples:
      vitrail data show ./photos
      vitrail data show ./photos --recipe deit --out deit.html
      vitrail data show digits --augment.rotate 45 --rows 4 --passes 8
    """

    out: Path = Path("runs/seen.png")
    """The sheet: .png, or .html."""
    rows: int = 6
    """How many images, spread evenly over the set."""
    passes: int = 6
    """In how many epochs each is shown."""


def run_show(words: Sequence[str]) -> int:
    asked, chosen = understand(Show, words, command="data show")
    say(chosen.why)
    say(f"sheet: {draw_sheet(chosen, asked.out, asked.rows, asked.passes)}")
    return 0
