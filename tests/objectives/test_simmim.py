"""SimMIM's masks and its loss, by hand."""

import math

import pytest
import torch

from vitrail.batches.loader import Batch
from vitrail.errors import ConfigError
from vitrail.models import zoo
from vitrail.models.vit import ViTConfig
from vitrail.objectives.simmim import SimMIM, block_mask

pytestmark = pytest.mark.oracle

CONFIG = ViTConfig(width=32, depth=1, heads=2, mlp_width=32, image=(16, 24), patch=(4, 4), classes=0, pool="mean")


@pytest.mark.parametrize(("grid", "block"), [((4, 6), 2), ((14, 14), 2), ((5, 3), 2), ((4, 4), 1)])
def test_whole_blocks_are_hidden_and_as_many_as_asked(grid: tuple[int, int], block: int) -> None:
    mask = block_mask(50, grid, 0.6, block, torch.Generator().manual_seed(0)).view(50, *grid)
    rows, columns = (math.ceil(side / block) for side in grid)
    for image in mask:
        hidden = 0
        for i in range(rows):
            for j in range(columns):
                part = image[i * block : (i + 1) * block, j * block : (j + 1) * block]
                assert part.all() or not part.any()
                hidden += bool(part.all())
        assert hidden == math.ceil(rows * columns * 0.6)
    assert not torch.equal(mask[0], mask[1])


def test_the_loss_is_the_mean_absolute_error_of_hidden_pixels() -> None:
    objective = SimMIM()
    learner = objective.build(zoo.build(CONFIG), torch.Generator().manual_seed(0))
    images = torch.randn(3, 3, 16, 24)
    batch = Batch(images, torch.zeros(3, dtype=torch.long), ("",) * 3)
    loss = objective(learner, batch, torch.Generator().manual_seed(5))
    mask = block_mask(3, (4, 6), 0.6, 2, torch.Generator().manual_seed(5))
    answers = learner(images, mask).view(3, 4, 6, 4, 4, 3).permute(0, 5, 1, 3, 2, 4).reshape(3, 3, 16, 24)
    pixels = mask.view(3, 1, 4, 6).repeat_interleave(4, 2).repeat_interleave(4, 3).expand(-1, 3, -1, -1)
    assert float(loss.value.detach()) == pytest.approx(
        float((answers - images).abs()[pixels].mean().detach()), rel=1e-5
    )
    # hidden pixels do not reach the answer
    assert torch.equal(learner(torch.where(pixels, 9.0, images), mask), learner(images, mask))


def test_ratios_and_blocks_that_mean_nothing() -> None:
    with pytest.raises(ConfigError, match="0 < mask_ratio < 1"):
        SimMIM(mask_ratio=0.0)
    with pytest.raises(ConfigError, match="block = 0"):
        SimMIM(block=0)
