"""One pass of a model over images, shared by every protocol: classification, few-shot, neighbours, linear probes."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Int64
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
    answer = _answer(model, what, preprocess, device, precision)
    parts: list[Tensor] = []
    targets: list[Tensor] = []
    keys: list[str] = []

    for batch in batches:
        apart = [(rows, answer(part.images)) for rows, part in batch.apart()]
        parts.append(_in_order(apart))
        targets.append(batch.targets)
        keys.extend(batch.keys)
        parts[-2:-1] = map(_fetch, parts[-2:-1])  # the batch before: its copy need not wait for the one just started
    answers = torch.cat([_fetch(part) for part in parts]) if parts else torch.zeros(0, 1)
    check_finite(answers, keys)
    labels = torch.cat(targets) if targets else torch.zeros(0, dtype=torch.long)
    return FeatureTable(answers, labels, torch.zeros(len(keys), dtype=torch.long), tuple(keys))


def _answer(
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


def _in_order(apart: list[tuple[Int64[np.ndarray, "_"], Tensor]]) -> Tensor:
    """The answers to images of several shapes, back in the order of the batch."""
    if len(apart) == 1:
        return apart[0][1]
    back = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in apart])))
    return torch.cat([answers for _, answers in apart])[back.to(apart[0][1].device)]


def _fetch(answers: Tensor) -> Tensor:
    return answers.float().cpu()
