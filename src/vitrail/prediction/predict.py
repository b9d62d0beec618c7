"""Images in, labelled answers out."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from vitrail import machine
from vitrail.batches.batch import groups
from vitrail.errors import ConfigError, DecodeError, NonFiniteError
from vitrail.images.preprocess import Preprocess
from vitrail.images.sources import Sample, Source, open_images
from vitrail.prediction.engine import Engine, ready_engine
from vitrail.prediction.forward import check_head
from vitrail.reports.progress import progress

Answer = tuple[tuple[str, ...], tuple[float, ...]]
"""The classes decided for, the likeliest first, and their probabilities."""
Least = float | Literal["auto"]
"""The least probability of a class that is given; auto: that of the model's record."""


@dataclass(frozen=True)
class Prediction:
    """The answer to one image."""

    key: str
    """Which image: its path."""
    labels: tuple[str, ...]
    """The likeliest first. A model of several labels gives those above its threshold, perhaps none."""
    probabilities: tuple[float, ...]
    error: str | None = None
    """Why there is no answer: the file could not be read."""
    value: float | None = None
    """The answer of a model that was trained on numbers; it has no labels."""


def predict(
    model: nn.Module | Engine,
    images: Source | str | Path | Sequence[str | Path],
    *,
    top_k: int = 5,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    precision: str = "auto",
    preprocess: Preprocess | None = None,
    classes: Sequence[str] | None = None,
    calibrated: bool = False,
    least: Least = 0.0,
    on_error: Literal["stop", "skip"] = "stop",
    quiet: bool = False,
) -> Iterator[Prediction]:
    """The `top_k` likeliest classes of every image (files, folders or a Source), in order, as they are computed.

    A model that was trained on several labels an image gives all labels above the threshold of its record, whatever `top_k`.
    `calibrated` divides logits by the temperature of the record, so that probabilities can be believed (Guo et al. 2017).
    `least` is the least probability of a class that is given: an image below it has no labels, it is none of these. "auto"
    takes temperature and `least` of the record, which images that were not trained on have chosen.
    Preprocessing and class names are those of the model's record unless given. The model stays on its device unless
    one is named; an Engine brings all of these itself. An unreadable image raises DecodeError that names it. With
    `on_error="skip"` it comes as a Prediction with its `error` and no labels: as many predictions as images.
    """
    if batch_size < 1:
        raise ConfigError(f"batch = {batch_size}", allowed="1 or more")
    if isinstance(images, str | Path):
        images = [images]
    source = images if isinstance(images, Source) else open_images(images)
    decision = Decision.of(model, top_k, calibrated=calibrated, least=least)
    engine = ready_engine(model, device=device, precision=precision, preprocess=preprocess, classes=classes)
    return _predict(engine, source, decision, batch_size, on_error, quiet)


@dataclass(frozen=True)
class Decision:
    """How logits become labels."""

    top_k: int = 5
    """The likeliest classes, so many."""
    threshold: float | None = None
    """Where an image has several labels: all with this probability or more, in place of `top_k`."""
    temperature: float = 1.0
    """The logits are divided by it."""
    least: float = 0.0
    """The least probability of a class that is given: below it an image is none of these."""
    numeric: bool = False
    """The model's one output is the answer, a number."""

    @classmethod
    def of(cls, model: Any, top_k: int, *, calibrated: bool = False, least: Least = 0.0) -> "Decision":
        """As the record of a model or engine says.

        Where an image has several labels, `least` can only raise their threshold. Raises DoesNotApply for a model without a
        head, ConfigError for what the record lacks.
        """
        check_head(model)
        if top_k < 1:
            raise ConfigError(f"top = {top_k}", allowed="1 or more")
        record = getattr(getattr(model, "model", model), "record", None)
        if least == "auto":
            calibrated, least = True, _least_of(record)
        temperature = getattr(record, "temperature", None) if calibrated else 1.0
        if temperature is None:
            raise ConfigError(
                "the model's record has no temperature",
                allowed="calibrated=False",
                next_step="train the model with this version: it fits a temperature on validation images",
            )
        if not 0 <= least < 1:
            raise ConfigError(f"least = {least}", allowed="0 or more, below 1")
        threshold = getattr(record, "threshold", None)
        if threshold is not None:
            threshold = max(threshold, least)
        return cls(top_k, threshold, temperature, least, getattr(record, "numeric", False))

    def __str__(self) -> str:
        given = f"top {self.top_k}" if self.threshold is None else f"labels from {self.threshold:g}"
        return (
            given
            + (f", temperature {self.temperature:g}" if self.temperature != 1 else "")
            + (f", at least {self.least:g}" if self.least else "")
        )


def _least_of(record: Any) -> float:
    found = getattr(record, "least", None)
    if found is None:
        raise ConfigError(
            "the model's record does not say below which probability an image is none of its classes",
            allowed="least = a probability",
            next_step="train the model with this version: held-out images choose it",
        )
    return found


def best_classes(engine: Engine, images: UInt8[Tensor, "B C H W"], decision: Decision) -> list[Answer]:
    """For each image the classes decided for, and their probabilities. NonFiniteError, or ConfigError for a wrong K."""
    return decide(engine.logits(images), engine.classes, decision)


def decide(logits: Float[Tensor, "B K"], classes: Sequence[str], decision: Decision) -> list[Answer]:
    """For each row of logits the classes decided for, and their probabilities; of numbers, no class and the number.

    Raises NonFiniteError, or ConfigError for a wrong K.
    """
    names = classes or tuple(f"class {k}" for k in range(logits.shape[1]))
    if len(names) != logits.shape[1]:
        raise ConfigError(f"the model answers {logits.shape[1]} classes, but {len(names)} names are known")
    if not torch.isfinite(logits).all():
        raise NonFiniteError("the model's answers are not finite", next_step="check its weights, or use fp32")
    if decision.numeric:
        return [((), (value,)) for value in logits[:, 0].tolist()]
    probabilities = probabilities_of(logits, decision)
    if decision.threshold is None:
        best, least = probabilities.topk(min(decision.top_k, len(names))), decision.least
    else:
        best, least = probabilities.sort(descending=True, stable=True), decision.threshold
    counts = (best.values >= least).sum(1).tolist()
    rows = zip(best.indices.tolist(), best.values.tolist(), counts, strict=True)
    return [(tuple(names[k] for k in row[:count]), tuple(values[:count])) for row, values, count in rows]


def probabilities_of(logits: Float[Tensor, "B K"], decision: Decision) -> Float[Tensor, "B K"]:
    """Softmax, or a sigmoid for each class where an image has several labels."""
    scaled = logits / decision.temperature
    return scaled.softmax(1) if decision.threshold is None else scaled.sigmoid()


def _predict(
    engine: Engine, source: Source, decision: Decision, batch_size: int, on_error: str, quiet: bool
) -> Iterator[Prediction]:
    done = 0
    with progress(len(source), "Predicting", quiet=quiet) as bar:
        ranges = [range(at, min(at + batch_size, len(source))) for at in range(0, len(source), batch_size)]
        for read in in_batches(engine.preprocess.read, source, ranges):
            failed = next((item for item in read if isinstance(item, DecodeError)), None)
            if failed is not None and on_error == "stop":
                hint = failed.next_step or "`skip_unreadable` goes on past such files"
                raise DecodeError(failed.reason, key=failed.key, allowed=failed.allowed, next_step=hint)
            answers = answer_each(lambda stack: best_classes(engine, stack, decision), read)
            for index, (answer, error) in enumerate(answers, done):
                labels, numbers = answer or ((), ())
                value = numbers[0] if decision.numeric and numbers else None
                yield Prediction(source.keys[index], labels, () if decision.numeric else numbers, error, value)
            done += len(read)
            bar.update(done)


def answer_each(
    answer: Callable[[UInt8[Tensor, "B C H W"]], Sequence[Any]], batch: Sequence[Tensor | DecodeError]
) -> Iterator[tuple[Any, str | None]]:
    """(answer, error) of each image that was read, or could not be; images of one shape are asked together."""
    images = [item for item in batch if isinstance(item, Tensor)]
    shapes = np.array([image.shape[1:] for image in images], np.int64).reshape(-1, 2)
    found: dict[int, Any] = {}
    for rows in map(np.ndarray.tolist, groups(shapes)):
        found |= dict(zip(rows, answer(torch.stack([images[row] for row in rows])), strict=True))
    answers = iter([found[row] for row in range(len(images))])
    for item in batch:
        yield (None, str(item)) if isinstance(item, DecodeError) else (next(answers), None)


def in_batches(
    read: Callable[[Sample], UInt8[Tensor, "C H W"]], source: Source, ranges: Sequence[range]
) -> Iterator[list[UInt8[Tensor, "C H W"] | DecodeError]]:
    """The images of each range, an error in the place of one that cannot be read; the next range is read while one is used.

    In threads: decoding and resizing leave Python's lock.
    """

    def attempt(index: int) -> UInt8[Tensor, "C H W"] | DecodeError:
        try:
            return read(source[index])
        except DecodeError as error:
            return error

    with ThreadPoolExecutor(machine.cores()) as pool:
        coming = [pool.submit(attempt, k) for span in ranges[:1] for k in span]
        try:
            for at in range(len(ranges)):
                batch = [future.result() for future in coming]
                coming = [pool.submit(attempt, k) for span in ranges[at + 1 : at + 2] for k in span]
                yield batch
        finally:
            pool.shutdown(cancel_futures=True)
