"""Images with several right answers: ImageNet-ReaL's rule, and sets where every class is a yes or a no."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import DataError
from vitrail.evaluation.feature_set import Outcome

# --- one answer, several right ---------------------------------------------------------------------------------------


def any_of(predicted: Int[Tensor, "N"], right: Sequence[Sequence[int]]) -> Outcome:
    """ImageNet-ReaL (Beyer et al. 2020): the one answer counts where it is among the image's labels.

    Images without a label are left out of the count, as the paper does. Raises DataError where none has one.
    """
    if len(predicted) != len(right):
        raise DataError(f"{len(predicted)} answers and {len(right)} sets of labels", allowed="one set for each image")
    asked = [(int(answer), labels) for answer, labels in zip(predicted, right, strict=True) if labels]
    if not asked:
        raise DataError("no image has a label")
    return Outcome(right=sum(answer in labels for answer, labels in asked), tested=len(asked))


def read_real(path: str | Path) -> tuple[tuple[int, ...], ...]:
    """The `real.json` of ImageNet-ReaL: a list of class lists, in the order of the validation images' names."""
    try:
        found = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is not a readable JSON file ({error})") from None
    if not isinstance(found, list) or not all(
        isinstance(labels, list) and all(type(label) is int for label in labels) for labels in found
    ):
        raise DataError(
            f"{path} is not a list of lists of class numbers", next_step="get real.json of reassessed-imagenet"
        )
    return tuple(map(tuple, found))


# --- every class is a yes or a no ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class MultiLabelScores:
    """Iterating gives the single numbers as (name, value)."""

    images: int
    mean_average_precision: float
    """Over the classes that any image has."""
    f1_micro: float
    f1_macro: float
    exact: float
    """Share of the images whose every class is right."""
    average_precision: tuple[float | None, ...]
    """Of each class; None for one that no image has."""

    def __iter__(self) -> Iterator[tuple[str, float]]:
        for name in ("images", "mean_average_precision", "f1_micro", "f1_macro", "exact"):
            yield name, getattr(self, name)


def multi_label_scores(
    logits: Float[Tensor, "N K"], targets: Float[Tensor, "N K"] | Int[Tensor, "N K"], *, threshold: float = 0.5
) -> MultiLabelScores:
    """Scores of independent yes-or-no answers; `targets` are 0 or 1, `threshold` is on sigmoid(logits)."""
    if not len(targets) or not bool(((targets == 0) | (targets == 1)).all()):
        raise DataError(
            "multi-label targets that are not 0 or 1, or none at all", allowed="one row of 0 and 1 per image"
        )
    scores, truth = logits.double().cpu().numpy(), targets.cpu().numpy() > 0
    answers = torch.sigmoid(logits.double()).cpu().numpy() >= threshold
    precision = tuple(average_precision(scores[:, k], truth[:, k]) for k in range(truth.shape[1]))
    known = [value for value in precision if value is not None]
    if not known:
        raise DataError("no image has any of the classes")
    hits, total = (answers & truth).sum(0), answers.sum(0) + truth.sum(0)
    return MultiLabelScores(
        images=len(truth),
        mean_average_precision=float(np.mean(known)),
        f1_micro=float(2 * hits.sum() / max(total.sum(), 1)),
        f1_macro=float(np.mean(2 * hits / np.maximum(total, 1))),
        exact=float((answers == truth).all(1).mean()),
        average_precision=precision,
    )


def average_precision(scores: Float[np.ndarray, "N"], truth: np.ndarray) -> float | None:
    """Σ_n (R_n - R_{n-1})·P_n down the ranking, equal scores taken together; None without a positive."""
    if not truth.any():
        return None
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.r_[np.diff(scores[order]) != 0, True])  # of each run of equal scores
    hits = np.cumsum(truth[order])[last]
    return float(np.sum(np.diff(np.r_[0, hits]) / hits[-1] * hits / (last + 1)))
