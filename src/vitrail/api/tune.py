"""`vitrail.tune`: speed against accuracy of the ways to run a model on this machine."""

from collections.abc import Sequence
from pathlib import Path

from vitrail.api.models import Model, Size, open_model
from vitrail.arguments import Say
from vitrail.errors import ConfigError
from vitrail.exporting import tune as trials
from vitrail.exporting.subject import open_subject
from vitrail.exporting.tune import Trial
from vitrail.images.samples import Splits


def tune(
    model: Model,
    data: str | Path | Splits | None = None,
    *,
    within: float = 0.5,
    merges: Sequence[int] | None = None,
    images: int = 2000,
    size: Size = None,
    say: Say = lambda text: None,
) -> list[Trial]:
    """Measures each runtime, number format and number of merged tokens: images a second, accuracy, and the loss with its interval.

        vitrail.tune("runs/photos-1", "./photos")[-1]      # the fastest

    Images that were trained on are left out, and every second one of the others measures accuracy.

    Args:
        data: Labelled images; by default those of the run.
        within: Points of accuracy that may be lost.
        merges: Patches merged in each block; by default three numbers that suit the model.
        images: Images that measure accuracy, at most.
        size: Height and width, instead of the model's own.
    """
    if within <= 0 or images < 2:
        raise ConfigError(f"within = {within}, images = {images}", allowed="points above 0; 2 images or more")
    subject = open_subject(open_model(model, size), data, say)
    return trials.tune(subject, within=within, merges=merges, most=images, say=say)
