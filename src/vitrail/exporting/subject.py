"""The model to export, and the images that its graph is judged on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from vitrail.arguments import Say
from vitrail.config import with_changes
from vitrail.errors import ConfigError, DataError, DoesNotApply
from vitrail.evaluation.evaluate import evaluate, evaluate_classes
from vitrail.exporting.gate import Case, compare_logits
from vitrail.images.content_keys import Keys
from vitrail.images.samples import Source, Splits
from vitrail.images.sources import open_data
from vitrail.models import zoo
from vitrail.models.backbone import Backbone
from vitrail.prediction.artefact import Accuracy, Compared
from vitrail.prediction.engine import Engine, TorchEngine
from vitrail.prediction.forward import check_head
from vitrail.scores.classification import Scores
from vitrail.scores.statistics import mcnemar, wilson
from vitrail.training.run_data import open_for
from vitrail.training.run_folder import RunFolder
from vitrail.training.unseen import choose_part
from vitrail.weights.record import Record
from vitrail.weights.trained_on import read_trained_keys

FEW, MANY = 64, 4000
"""Real images that an exact graph is compared on, and the most that a changed one is measured on."""
AGREEMENT = 0.995
"""The least share of equal answers in bfloat16."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model on its way out."""

    model: Backbone
    record: Record
    keys: Keys | None
    """Content keys of the images that it was trained on."""
    source: Source | None
    """Images that it was not trained on."""
    data: str
    merged: Backbone | None = None
    """The same weights with merged tokens, where those are exported."""

    @property
    def exported(self) -> Backbone:
        """The model that becomes a graph."""
        return self.merged or self.model

    @property
    def merge(self) -> int:
        """Patches merged in each block."""
        return self.merged.config.extras.merge if self.merged else 0

    @property
    def reference(self) -> TorchEngine:
        """The exported model in torch, float32: what its graph is held against."""
        return TorchEngine.of(self.exported, device="cpu", precision="fp32")

    @property
    def original(self) -> TorchEngine:
        """The model as it was trained, in torch, float32: what accuracy is held against."""
        return TorchEngine.of(self.model, device="cpu", precision="fp32")

    @property
    def any_size(self) -> bool:
        """Merged tokens are measured at one size, so they are exported for one."""
        return self.model.config.exports_any_size and not self.merge

    def pixels(self, most: int = FEW) -> UInt8[Tensor, "N C H W"] | None:
        """At most so many of its images, as the model reads them at its native size."""
        preprocess = self.record.preprocess
        if self.source is None:
            return None
        source = self.source.thin(most)
        read = (preprocess.read(source[index]) for index in range(len(source)))
        images = [image for image in read if tuple(image.shape[1:]) == tuple(preprocess.size)]
        return torch.stack(images) if images else None


def with_merging(subject: Subject, merge: int) -> Subject:
    """The subject with `merge` patches merged in each block. DoesNotApply for a family without a ViT's blocks."""
    if not merge:
        return subject
    model, config = subject.model, subject.model.config
    if not hasattr(config, "extras"):
        raise DoesNotApply(f"a {config.family} has no tokens that merge", allowed="vit, deit and hybrid models")
    changed: Any = with_changes(config, {"extras.merge": merge})
    merged = zoo.skeleton(changed)
    merged.load_state_dict(model.state_dict(), assign=True)
    merged.record = replace(subject.record, config=changed)
    return replace(subject, merged=merged.eval(), record=merged.record)


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
        return open_for(run), run.data
    except DataError:
        say(f"the images of the run, {run.data}, are not here: the graph is compared on drawn images only")
        return None, ""


def require_images(subject: Subject, what: str, least: int = 1) -> Source:
    """The images to measure a changed model on. Raises ConfigError where there are none."""
    if subject.source is None or len(subject.source) < least:
        raise ConfigError(
            f"{what} changes answers, and there are {len(subject.source or ()) or 'no'} images to measure the loss on",
            allowed=f"{least} or more",
            next_step="name labelled images that the model was not trained on, as the second argument",
        )
    if subject.source.multi_label or subject.source.numeric:
        kind = "several labels" if subject.source.multi_label else "numbers"
        raise DoesNotApply(f"{what} is judged by top-1, and these images have {kind}")
    return subject.source


def measure_drop(before: Scores | Engine, after: Engine, source: Source, data: str, *, within: float) -> Accuracy:
    """Top-1 of both on the same images, and the 95 % interval of the difference. `before` may be scores that are known."""
    scores = [one if isinstance(one, Scores) else score(one, source) for one in (before, after)]
    right = [one.predicted == one.targets for one in scores]
    both = mcnemar(right[1], right[0])  # before minus after
    return Accuracy(
        data=data,
        images=both.images,
        before=scores[0].top1,
        after=scores[1].top1,
        drop=100 * both.difference,
        interval=(100 * both.interval[0], 100 * both.interval[1]),
        within=within,
    )


def score(engine: Engine, source: Source) -> Scores:
    """Top-1 of an engine on all images."""
    return evaluate_classes(engine, source, batch_size=64, workers=0)


def judge(accuracy: Accuracy) -> tuple[str, ...]:
    """Refuses a loss beyond the bound; gives a sentence where the images are too few to show that it is within."""
    if accuracy.drop > accuracy.within:
        raise DataError(
            f"accuracy falls by {accuracy.drop:.2f} points on {accuracy.images:,} images, of {accuracy.within:g} allowed: "
            "nothing was written",
            next_step="allow more with `within`, or merge fewer tokens",
        )
    if accuracy.shown:
        return ()
    low, high = accuracy.interval
    return (
        f"that accuracy falls by at most {accuracy.within:g} points: {accuracy.images:,} images leave {low:+.2f} to {high:+.2f}",
    )


def measure_agreement(case: Case, source: Source) -> tuple[Compared, tuple[str, ...]]:
    """How many images have the same answer in a shorter number format; and a sentence where too few images cannot show it."""
    tables = [evaluate(one, source, batch_size=64, workers=0)[1] for one in (case.reference, case.candidate)]
    found = compare_logits(case, "real images", tables[0].features, tables[1].features, tables[0].keys)
    if found.agreement < AGREEMENT:
        raise DataError(
            f"only {found.agreement:.2%} of {found.images:,} answers stay the same in {case.candidate.precision}, of"
            f" {AGREEMENT:.1%} wanted: nothing was written",
            next_step="export in fp32",
        )
    low, _ = wilson(round(found.agreement * found.images), found.images)
    few = f"that {AGREEMENT:.1%} of answers stay the same: {found.images:,} images are too few"
    return found, () if low >= AGREEMENT else (few,)
