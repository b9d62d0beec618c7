"""The outcome of a training that held out no image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vitrail.reports.figures import Panel
from vitrail.reports.page import Facts, Section
from vitrail.scores.outcome import Headline, ImageOf, Outcome


@dataclass(frozen=True, eq=False)
class Unscored(Outcome):
    """No score: every image was trained on."""

    chooses_best: ClassVar[bool] = False
    panels: ClassVar = (
        Panel("Loss", {"loss": "training"}, log=True),
        Panel("Learning rate", {"lr": "learning rate"}),
    )
    images: int = 0

    @property
    def headline(self) -> Headline:
        """Not a number."""
        return Headline("score", float("nan"), percent=False)

    @property
    def numbers(self) -> Mapping[str, float]:
        return {"images": 0}

    def facts(self) -> list[tuple[str, str]]:
        return [("Score", str(self))]

    def sections(self, image_of: ImageOf) -> list[Section]:
        return [Facts("Result", self.facts(), style="tiles")]

    def __str__(self) -> str:
        return "none: every image was trained on"
