"""The images of a run: opened as it asks, and split as it needs."""

import dataclasses
from pathlib import Path
from typing import Any

from vitrail.errors import ConfigError, DataError
from vitrail.images.folders import LEAVES
from vitrail.images.heldout import add_validation, draw_folds, repeat_rare, split
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import NAMED, open_data, open_images
from vitrail.training.run import Run

VALIDATION = 0.2
"""Share of the training images that become validation images where a run needs some and the data has none."""


def open_run(run: Run) -> Splits:
    """The images of a run, as it splits them."""
    return arrange(choose_fold(open_for(run), run), run)


def choose_fold(splits: Splits, run: Run) -> Splits:
    """The split of the run's fold, where it names one."""
    return draw_folds(splits, run.fold[1])[run.fold[0] - 1] if run.fold else splits


def arrange(splits: Splits, run: Run) -> Splits:
    """With validation images where the run's patience needs them."""
    if run.patience is None:
        return splits
    if not run.objective.reads_labels:
        raise ConfigError("patience without labels: a pre-training loss chooses no weights", allowed="patience = None")
    return add_validation(splits, VALIDATION)


def stream_of(train: Source, run: Run) -> Source:
    """The images that an epoch goes through: the training images, some of them several times where the run balances
    classes by sampling.
    """
    if run.balance != "sampling":
        return train
    if not train.counts.any():
        raise ConfigError("balanced sampling of images without classes", allowed="balance = 'none'")
    return repeat_rare(train)


def open_for(run: Run, *, download: bool = False) -> Splits:
    """The images that a run names; without class folders too where its objective reads no labels."""
    try:
        return open_data(run.data, holdout=run.holdout, download=download, follow_links=run.follow_links)
    except DataError as error:
        if run.objective.reads_labels or not Path(run.data).is_dir():
            raise
        splits = split(open_images([run.data], follow_links=run.follow_links), run.holdout, 0)
        return dataclasses.replace(splits, how=f"{splits.how}; no labels are read ({error.found})")


def locate_teacher(run: Run) -> Run:
    """The run with the path of its teacher from the root, where its objective has one."""
    objective: Any = run.objective
    if not (teacher := getattr(objective, "teacher", "")):
        return run
    return dataclasses.replace(run, objective=dataclasses.replace(objective, teacher=locate(teacher)))


def locate(text: str) -> str:
    """A path from the root, so that a run resumes from any directory; a name stays a name."""
    folder = text.removesuffix(LEAVES)
    is_path = text and text not in list(NAMED) and Path(folder).exists()
    return str(Path(folder).resolve() / text[len(folder) :]) if is_path else text
