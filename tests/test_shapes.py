"""The tests check shapes while they run: `tests.support.shapes` chooses which functions are checked."""

import jaxtyping
import pytest
import torch

from tests.support.shapes import unchecked
from vitrail.evaluation.neighbours import nearest
from vitrail.models.backbone import Features


def test_a_wrong_shape_is_found() -> None:
    with pytest.raises(jaxtyping.TypeCheckError):
        nearest(torch.ones(3), torch.ones(4, 5), k=1)
    with pytest.raises(jaxtyping.TypeCheckError):
        Features(torch.ones(3, 4), prefix=0, grid=(2, 2))
    with unchecked(), pytest.raises(IndexError):
        nearest(torch.ones(3), torch.ones(4, 5), k=1)
