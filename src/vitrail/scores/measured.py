"""The outcome of pre-training: means over held-out images of what the objective reports."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vitrail.reports.figures import Panel
from vitrail.scores.outcome import Headline, Outcome


@dataclass(frozen=True)
class Measured(Outcome):
    """An objective's own numbers on held-out images, means over images. `loss` is among them.

    Without held-out images there is no number: `Measured(0, {})`.
    """

    chooses_best: ClassVar[bool] = False
    panels: ClassVar = (
        Panel("Loss", {"loss": "training", "held_out_loss": "held out"}, log=True),
        Panel("Accuracy", {"accuracy": "training", "held_out_accuracy": "held out"}, percent=True),
        Panel("Learning rate", {"lr": "learning rate"}),
    )
    means: Mapping[str, float]

    @property
    def headline(self) -> Headline:
        return Headline("loss", self.means.get("loss", float("nan")), percent=False, higher_is_better=False)

    @property
    def numbers(self) -> Mapping[str, float]:
        return {"images": self.images, **self.means}

    def facts(self) -> list[tuple[str, str]]:
        if not self.images:
            return [("Score", str(self))]
        means = [(f"Held-out {name}", f"{value:.4g}") for name, value in self.means.items()]
        return [*means, ("Held-out images", f"{self.images:,}")]
