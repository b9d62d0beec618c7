"""The score of a model's answers, by what is known of each image: its class, several labels, or a number."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vitrail.images.samples import Source
from vitrail.scores.classification import Scores, index_labels, score_classes
from vitrail.scores.multilabel import MultiLabelScores, score_labels
from vitrail.scores.regression import NumberScores, score_numbers

Answered = Scores | MultiLabelScores | NumberScores
"""The outcomes of a model that answers images."""


def score_answers(
    answers: Float[Tensor, "N K"], source: Source, classes: Sequence[str], threshold: float | None = None
) -> Answered:
    """Scores the answers to all images of `source`, in its order. `classes` are those of the model; `threshold` is on the
    probabilities of several labels, and was chosen on other images.
    """
    if source.numeric:
        return score_numbers(answers, torch.from_numpy(source.labels), classes[0])
    labels = index_labels(source.labels, source.classes, classes)
    if labels.ndim == 2:
        return score_labels(answers, labels, classes, threshold=threshold)
    return score_classes(answers, labels, classes)
