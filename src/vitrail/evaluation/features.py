"""One pass of a model over images, shared by every protocol: classification, few-shot, neighbours, linear probes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vitrail import hardware
from vitrail.batches.loader import Batch
from vitrail.errors import DoesNotApply
from vitrail.evaluation.feature_table import FeatureTable
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.engine import Engine
from vitrail.prediction.forward import answering, as_input, place
from vitrail.scores.finite import check_finite


def extract(
    model: nn.Module | Engine,
    batches: Iterable[Batch],
    *,
    what: Literal["logits", "features"] = "logits",
    preprocess: Preprocess | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> FeatureTable:
    """Logits or pooled features of every image of `batches`, which are 8-bit, or float and already normalised.

    `preprocess` normalises the 8-bit ones (the model's own record, if it has one, else ConfigError). The model stays on
    its device unless one is named; an engine brings all of these itself. Raises NonFiniteError that names the first image
    whose answer is not finite, DoesNotApply for features of an engine.
    """
    answer = make_answer(model, what, preprocess, device, precision)
    targets, keys = list[Tensor](), list[str]()

    def noted() -> Iterator[Batch]:
        for batch in batches:
            targets.append(batch.targets)
            keys.extend(batch.keys)
            yield batch

    found = collect(noted(), lambda part: {what: answer(part.images).float()})
    answers = found.get(what, torch.zeros(0, 1))
    check_finite(answers, keys)
    labels = torch.cat(targets) if targets else torch.zeros(0, dtype=torch.long)
    return FeatureTable(answers, labels, torch.zeros(len(keys), dtype=torch.long), tuple(keys))


def collect(batches: Iterable[Batch], answer: Callable[[Batch], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The answers of `answer` to all images, by name and on the CPU. It is asked for images of one shape at a time, and the
    order of each batch is kept.
    """
    found: dict[str, list[Tensor]] = {}
    for batch in (batch for batch in batches if len(batch)):
        apart = batch.apart()
        back = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in apart])))
        answers = [answer(part) for _, part in apart]
        for name, rows in answers[0].items():
            parts = found.setdefault(name, [])
            parts.append(rows if len(apart) == 1 else torch.cat([one[name] for one in answers])[back.to(rows.device)])
            # the batch before: its copy need not wait for the one just started
            parts[-2:-1] = [part.cpu() for part in parts[-2:-1]]
    return {name: torch.cat([part.cpu() for part in parts]) for name, parts in found.items()}


def make_answer(
    model: nn.Module | Engine, what: str, preprocess: Preprocess | None, device: Any, precision: str
) -> Callable[[Tensor], Tensor]:
    """The function from images of one shape to logits or features."""
    if not isinstance(model, nn.Module):
        if what != "logits":
            raise DoesNotApply(
                f"{model.name} gives answers, no features", next_step="take the weights it was made from"
            )
        return model.logits
    read: Any = model
    where = place(model, device)
    dtype = hardware.precision(precision, where)

    def answer(images: Tensor) -> Tensor:
        with answering(model, where, dtype):
            pixels = as_input(model, images, where, preprocess)
            return read(pixels) if what == "logits" else read.pool(read.features(pixels))

    return answer
