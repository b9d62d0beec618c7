"""The model to export, and the images that its graph is judged on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.errors import ConfigError, DataError, DoesNotApply
from vitrail.evaluation.evaluate import evaluate_classes
from vitrail.exporting.gate import Case, compare_logits
from vitrail.images.content_keys import Keys
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data
from vitrail.models.backbone import Backbone
from vitrail.prediction.artefact import Accuracy, Compared
from vitrail.prediction.engine import Engine, TorchEngine
from vitrail.prediction.forward import check_head
from vitrail.scores.statistics import mcnemar, wilson
from vitrail.training.run_folder import RunFolder
from vitrail.training.unseen import choose_part
from vitrail.weights.record import Record
from vitrail.weights.trained_on import read_trained_keys

FEW, MANY = 64, 2000
"""Real images that an exact graph is compared on, and the most that a changed one is measured on."""
AGREEMENT = 0.995
"""The least share of equal answers in bfloat16."""
Say = Callable[[str], object]


@dataclass(frozen=True, eq=False)
class Subject:
    """A model on its way out."""

    model: Backbone
    record: Record
    keys: Keys | None
    """Of the images that it was trained on."""
    source: Source | None
    """Images that it was not trained on."""
    data: str

    @property
    def reference(self) -> TorchEngine:
        """The model in torch, float32: what every graph is held against."""
        return TorchEngine.of(self.model, device="cpu", precision="fp32")

    @property
    def any_size(self) -> bool:
        return self.model.config.exports_any_size

    def sample(self, most: int) -> Source | None:
        """At most so many of its images, evenly spread."""
        if self.source is None:
            return None
        rows = np.unique(np.linspace(0, len(self.source) - 1, min(most, len(self.source))).astype(np.int64))
        return self.source.subset(rows)

    def pixels(self, most: int = FEW) -> UInt8[Tensor, "N C H W"] | None:
        """At most so many of its images, as the model reads them at its native size."""
        source, preprocess = self.sample(most), self.record.preprocess
        if source is None:
            return None
        read = (preprocess.read(source[index]) for index in range(len(source)))
        images = [image for image in read if tuple(image.shape[1:]) == tuple(preprocess.size)]
        return torch.stack(images) if images else None


def open_subject(model: Backbone, data: str | Path | Splits | None, say: Say) -> Subject:
    """The model with the images named, or those of its own run where they can be found.

    Raises DoesNotApply for a model without a head, ConfigError for one without a record.
    """
    check_head(model)
    if model.record is None:
        raise ConfigError("this model has no record", next_step="vitrail.save it, and export the folder")
    path = model.loaded_from
    splits, name = _open_images(data, path, say)
    part = choose_part(splits, [model], data=name) if splits else None
    for sentence in part.sentences if part else ():
        say(sentence)
    keys = read_trained_keys(path) if path else None
    return Subject(model, model.record, keys, part.source if part else None, name)


def _open_images(data: str | Path | Splits | None, path: str | None, say: Say) -> tuple[Splits | None, str]:
    if isinstance(data, Splits):
        return data, data.train.name
    if data is not None:
        return open_data(data), str(data)
    if path is None or not (Path(path) / "run.json").is_file():
        return None, ""
    run = RunFolder.read(Path(path))
    try:
        return open_data(run.data, holdout=run.holdout), run.data
    except DataError:
        say(f"the images of the run, {run.data}, are not here: the graph is compared on drawn images only")
        return None, ""


def require_images(subject: Subject, what: str, least: int = 1) -> Source:
    """The images to measure a changed model on. Raises ConfigError where there are none."""
    if subject.source is None or len(subject.source) < least:
        raise ConfigError(
            f"{what} changes answers, and there are no images to measure the loss on",
            next_step="name labelled images that the model was not trained on, as the second word or `data='./photos'`",
        )
    if subject.source.multi_label:
        raise DoesNotApply(f"{what} is judged by top-1, and these images have several labels")
    return subject.source


def measure_drop(
    before: Engine, after: Engine, source: Source, data: str, *, within: float, batch: int = 64
) -> Accuracy:
    """Top-1 of both on the same images, and the 95 % interval of the difference."""
    options: dict[str, Any] = {"batch_size": batch, "workers": 0}
    scores = [evaluate_classes(one, source, **options) for one in (before, after)]
    right = [one.predicted == one.targets for one in scores]
    both = mcnemar(right[0], right[1])
    low, high = both.interval
    return Accuracy(
        data=data,
        images=both.images,
        before=scores[0].top1,
        after=scores[1].top1,
        drop=-100 * both.difference,
        interval=(-100 * high, -100 * low),
        within=within,
    )


def measure_agreement(case: Case, source: Source) -> tuple[Compared, tuple[str, ...]]:
    """How many images have the same answer in a shorter number format; and a sentence where too few images cannot show it."""
    from vitrail.evaluation.evaluate import evaluate

    tables = [evaluate(one, source, batch_size=64, workers=0)[1] for one in (case.reference, case.candidate)]
    found = compare_logits(case, "real images", tables[0].features, tables[1].features, tables[0].keys)
    if found.agreement < AGREEMENT:
        raise DataError(
            f"only {found.agreement:.2%} of {found.images:,} answers stay the same in {case.candidate.precision}, of"
            f" {AGREEMENT:.1%} wanted: nothing was written",
            next_step="export in fp32",
        )
    low, _ = wilson(round(found.agreement * found.images), found.images)
    few = f"{found.images:,} images are too few to show that {AGREEMENT:.1%} of answers stay the same"
    return found, () if low >= AGREEMENT else (few,)
