"""Learning-rate scale and weight decay of every parameter, equal to MAE's fine-tuning code."""

import json

import pytest

from tests.support.golden import Golden
from vitrail.models import zoo
from vitrail.models.extras import Extras
from vitrail.models.vit import ViTConfig
from vitrail.training.optim import tune
from vitrail.training.run import Optim

pytestmark = pytest.mark.oracle


def test_scales_and_decays_equal_mae(golden: Golden) -> None:
    for case in json.loads((golden / "mae_layer_decay/vit/lr_decay.json").read_text())["cases"]:
        config = ViTConfig(
            width=48,
            depth=case["depth"],
            heads=3,
            mlp_width=96,
            image=(32, 32),
            patch=(8, 8),
            classes=5,
            pool="mean" if case["global_pool"] else "cls",
            extras=Extras(class_token=True, final_norm="pooled" if case["global_pool"] else "tokens"),
        )
        ours = tune(zoo.build(config), Optim(layer_decay=case["layer_decay"], weight_decay=case["weight_decay"]))
        theirs = case["params"].values()
        # the same multiset of (scale, decay), and the same for each block and end of the model
        assert sorted((round(t.lr_scale, 9), t.weight_decay) for t in ours) == sorted(
            (round(t["lr_scale"], 9), t["weight_decay"]) for t in theirs
        )
        for depth in range(case["depth"]):
            scale = case["params"][f"blocks.{depth}.norm1.weight"]["lr_scale"]
            assert {t.lr_scale for t in ours if f"blocks.{depth}." in t.name} == {scale}


def test_weight_decay_spares_biases_norms_tokens_and_positions() -> None:
    config = ViTConfig(width=48, depth=1, heads=3, mlp_width=96, image=(32, 32), patch=(8, 8), classes=5)
    decayed = {t.name for t in tune(zoo.build(config), Optim(weight_decay=0.1)) if t.weight_decay}
    assert all(name.endswith("weight") and "norm" not in name for name in decayed)
    assert sum("blocks.0" in name for name in decayed) == 4  # qkv, proj, and the two of the MLP
