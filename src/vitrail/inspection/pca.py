"""Principal components, as every analysis here computes them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Components:
    """The directions of largest variance, largest first; signs such that each direction's largest entry is positive."""

    directions: Float[Tensor, "k D"]
    """Unit vectors."""
    scores: Shaped[Tensor, "..."]
    """The rows' places along them: rows × k, or in a shape of the caller."""
    explained: Float[Tensor, "k"]
    """Shares of the whole variance."""


def components(rows: Float[Tensor, "n D"], count: int) -> Components:
    """The first `count` principal components of the rows, or as many as there are, from the smaller Gram matrix."""
    centred = (rows - rows.mean(0)).double()
    short = len(rows) < rows.shape[1]
    gram = centred @ centred.T if short else centred.T @ centred
    values, vectors = torch.linalg.eigh(gram)
    kept = values.flip(0)[: min(count, len(values))].clamp_min(0)
    vectors = vectors.flip(1)[:, : len(kept)]
    directions = torch.nn.functional.normalize(centred.T @ vectors if short else vectors, dim=0).T
    signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    directions = directions * torch.where(signs == 0, 1, signs)
    total = values.clamp_min(0).sum().clamp_min(1e-30)
    return Components(directions.float(), (centred @ directions.T).float(), (kept / total).float())
