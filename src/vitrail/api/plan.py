"""`vitrail.plan`: the cost of a training, before it starts."""

from pathlib import Path
from typing import Any

from vitrail.api.request import Classes, choose_run
from vitrail.images.sources import Splits
from vitrail.training import plan as planning
from vitrail.training.plan import Plan


def plan(
    data: str | Path | Splits, *, recipe: str | None = None, model: str | None = None, weights: str | Path | None = None,
    epochs: float | None = None, holdout: float | None = None, download: bool = False, classes: Classes = "top",
    **changes: Any,
) -> Plan:  # fmt: skip
    """Steps, FLOPs, and by a short probe time and memory, of the training that `vitrail.train` would start."""
    chosen = choose_run(
        data, recipe=recipe, model=model, weights=weights, epochs=epochs, holdout=holdout, download=download, classes=classes,
        changes=changes,
    )  # fmt: skip
    return planning.plan(chosen.run, chosen.splits)
