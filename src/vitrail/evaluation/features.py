"""One pass of a model over images, shared by every protocol: classification, few-shot, neighbours, linear probes."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, Int64
from torch import Tensor, nn

from vitrail import hardware
from vitrail.batches.loader import Batch
from vitrail.errors import NonFiniteError
from vitrail.images.preprocess import Preprocess
from vitrail.prediction.forward import answering, as_input, place

What = Literal["logits", "features", "both"]


@dataclass(frozen=True, eq=False)
class Extracted:
    """The answers of one pass, in the order of the images: float32 on the CPU."""

    features: Float[Tensor, "N P"] | None
    """The input of the head: the model's `pool` of its tokens."""
    logits: Float[Tensor, "N K"] | None
    targets: Int[Tensor, "N"] | Float[Tensor, "N K"]
    keys: tuple[str, ...]


def extract(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    what: What = "logits",
    preprocess: Preprocess | None = None,
    device: str | torch.device | None = None,
    precision: str = "auto",
) -> Extracted:
    """Logits, pooled features or both of every image of `batches`, which are 8-bit, or float and already normalised.

    `preprocess` normalises the 8-bit ones (the model's own record, if it has one, else ConfigError). The model stays on
    its device unless one is named. Raises NonFiniteError that names the first image whose answer is not finite.
    """
    where = place(model, device)
    dtype = hardware.precision(precision, where)
    parts: list[tuple[Tensor | None, Tensor | None]] = []
    targets: list[Tensor] = []
    keys: list[str] = []
    for batch in batches:
        with answering(model, where, dtype):
            apart = [
                (rows, _answers(model, as_input(model, part.images, where, preprocess), what))
                for rows, part in batch.apart()
            ]
        parts.append(_in_order(apart))
        targets.append(batch.targets)
        keys.extend(batch.keys)
        if len(parts) > 1:  # the batch before: its copy need not wait for the one just started
            parts[-2] = _fetch(parts[-2])
    parts[-1:] = map(_fetch, parts[-1:])
    features, logits = (_join(column) for column in zip(*parts, strict=True)) if parts else (None, None)
    for found in (features, logits):
        _check_finite(found, keys)
    return Extracted(features, logits, torch.cat(targets) if targets else torch.zeros(0, dtype=torch.long), tuple(keys))


def _answers(model: Any, images: Float[Tensor, "B C H W"], what: What) -> tuple[Tensor | None, Tensor | None]:
    if what == "logits":
        return None, model(images)
    pooled = model.pool(model.features(images))
    return pooled, model.head(pooled) if what == "both" else None


def _in_order(
    apart: list[tuple[Int64[np.ndarray, "_"], tuple[Tensor | None, Tensor | None]]],
) -> tuple[Tensor | None, Tensor | None]:
    """The answers to images of several shapes, back in the order of the batch."""
    if len(apart) == 1:
        return apart[0][1]
    back = torch.from_numpy(np.argsort(np.concatenate([rows for rows, _ in apart])))
    columns = zip(*(answers for _, answers in apart), strict=True)
    features, logits = (None if None in column else torch.cat(column)[back.to(column[0].device)] for column in columns)
    return features, logits


def _fetch(answers: tuple[Tensor | None, Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
    features, logits = (None if answer is None else answer.float().cpu() for answer in answers)
    return features, logits


def _join(column: tuple[Tensor | None, ...]) -> Tensor | None:
    parts = [part for part in column if part is not None]
    return torch.cat(parts) if parts else None


def _check_finite(answers: Tensor | None, keys: list[str]) -> None:
    if answers is None or torch.isfinite(answers).all():
        return
    rows = (~torch.isfinite(answers)).any(1).nonzero()[:, 0].tolist()
    raise NonFiniteError(
        f"the model's answers to {len(rows)} of {len(keys)} images are not finite, the first: {keys[rows[0]]}",
        next_step="check the weights, or try `precision='fp32'`",
    )
