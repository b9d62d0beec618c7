"""The ViT's own options, written out."""

import pytest
import torch

from tests.support.zoo import lively
from vitrail.errors import ConfigError
from vitrail.models import zoo

pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("at", ["stem", "layers", "shared"])
def test_positions_before_every_layer_written_out(at: str) -> None:
    """Table 8's columns: block 1 reads what the stem added; each later block adds its own table, or the stem's again."""
    model = lively(zoo.config("vit-mu/16", depth=3, image=32, positions_at=at)).double()
    images = torch.randn(2, 3, 32, 48, dtype=torch.float64)
    more = {"stem": [], "layers": [*model.layer_positions], "shared": [model.positions] * 2}[at]
    z = model.embed(images)
    for number, block in enumerate(model.blocks):
        z = block(z + more[number - 1]((2, 3), z) if number and more else z)
    assert torch.equal(model.features(images).tokens, model.norm(z))
    assert len(model.layer_positions) == 2 * (at == "layers")
    for changes in ({"positions": "rotary"}, {"positions": "none"}, {"merge": 1}) if at != "stem" else ():
        with pytest.raises(ConfigError, match="positions_at="):
            zoo.config("vit-mu/16", positions_at=at, **changes)
