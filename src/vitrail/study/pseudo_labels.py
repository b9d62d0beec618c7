"""Noisy Student (arXiv 1911.04252): a teacher labels the images without labels; a noised student learns from all images."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vitrail.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class PseudoLabels:
    """How a teacher's answers become labels; the defaults are the paper's (section 3.2)."""

    threshold: float = 0.3
    """Least probability of the answer."""
    per_class: int | None = 130_000
    """Images of each class: the surest where there are more, copies of them where there are fewer. None: as they come."""
    soft: bool = True
    """The teacher's probabilities as targets, or its first choice."""


def pseudo_label(logits: Float[Tensor, "N K"], how: PseudoLabels) -> tuple[Int[Tensor, "n"], Float[Tensor, "n K"]]:
    """(rows of the images to learn from, copies among them; their targets), class by class, the surest first.

    A class that no image is sure enough of stays empty. ConfigError where all are.
    """
    probabilities = logits.float().softmax(1)
    sure, answer = probabilities.max(1)
    chosen: list[Tensor] = []
    for label in range(logits.shape[1]):
        members = ((answer == label) & (sure >= how.threshold)).nonzero()[:, 0]
        members = members[sure[members].argsort(descending=True, stable=True)]
        if how.per_class is not None and len(members):
            repeats = -(-how.per_class // len(members))
            members = members.repeat(repeats)[: how.per_class]
        chosen.append(members)
    rows = torch.cat(chosen)
    if not len(rows):
        raise ConfigError(
            f"the teacher is sure of none of {len(logits)} images (the most: {float(sure.max()) if len(sure) else 0:.2f})",
            allowed=f"probabilities from {how.threshold}",
            next_step="lower the threshold, or train the teacher longer",
        )
    found = probabilities[rows]
    if not how.soft:
        found = torch.nn.functional.one_hot(answer[rows], logits.shape[1]).float()
    return rows, found
